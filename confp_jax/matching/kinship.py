"""Recordings of one voice: the same words said once more are more alike than two pieces of music
ever are, and are still not the same recording.

A decision that was fitted on music does not know that. So where a match and its cohort are kin, as
the prompts of one speaker are, the match must close a good part of the gap between the nearest
track of the cohort and a cosine of 1. Measured with `edge2` on 707 English and French telephone
prompts through GSM: for right matches this part is at least 0.60 (for 95 % of them at least 0.46
with 10 dB of noise, lost packets and two codecs in a row). For prompts that are not in the database
it is at most 0.43, and at most 0.36 for those that the decision would have answered.
"""

import numpy as np

from confp_jax.matching.ranking import Ranking
from confp_jax.matching.searchable import Reference
from confp_jax.matching.seeds import COHORT_SIZE

# The mean cosine of the rows of two tracks: 0.074 and more of one voice (99 %), 0.057 and less of
# music and what is nearest to it (293 tracks among 879). This holds for models with dense
# queries, whose fingerprints of music have the mean 0.
_LEAST_KIN = 0.065
_LEAST_PART = 0.4
_LEAST_COHORT = 3  # fewer do not show whether there is one voice
_NUM_ROWS = 16  # of each track


def is_confusable(ranking: Ranking, place: int, reference: Reference) -> bool:
    """Returns whether a match has the voice that speaks in its cohort too, and does not stand out
    enough to be the same recording.
    """
    cohort = ranking.cohort[:COHORT_SIZE]
    if reference.query_phases == 1 or len(cohort) < _LEAST_COHORT:
        return False
    nearest = float(ranking.scores[cohort[0]])
    if float(ranking.scores[place]) - nearest >= _LEAST_PART * (1 - nearest):
        return False
    own = _mean_row(reference, int(ranking.tracks[place]))
    kin = [float(own @ _mean_row(reference, int(ranking.tracks[other]))) for other in cohort]
    return float(np.mean(kin)) >= _LEAST_KIN


def _mean_row(reference: Reference, track: int) -> np.ndarray:
    num = int(reference.num_rows[track])
    rows = np.unique(np.linspace(0, num - 1, _NUM_ROWS).astype(np.int64))
    stored = reference.snapshot.vectors[int(reference.first_rows[track]) + rows]
    return stored.astype(np.float32).mean(axis=0)

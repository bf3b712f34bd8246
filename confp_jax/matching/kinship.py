"""Recordings of one voice: the same words said once more are more alike than two pieces of music
ever are, and are still not the same recording.

A decision that was fitted on music does not know that. So where a match and its cohort are kin, as
the prompts of one speaker are, the match must be as alike as the same recording is, and close a
part of the gap between the nearest track of the cohort and a cosine of 1. Measured with `edge2` on
English and French telephone prompts: right matches that the decision accepts, through GSM or a line
with noise, lost packets and two codecs (116 calls), have a score of at least 0.38 and close at
least 0.24 of the gap. A sentence that the same voice reads once more (16 calls) reaches at most
0.36 and 0.24.
"""

import numpy as np

from confp_jax.matching.ranking import Ranking
from confp_jax.matching.searchable import Reference
from confp_jax.matching.seeds import COHORT_SIZE

# The mean cosine of the rows of two tracks: 0.044 and more of one voice, 0.028 and less of music
# and what is nearest to it (60 noisy excerpts among 177 tracks). This holds for models with dense
# queries, whose fingerprints of music have the mean 0.
_LEAST_KIN = 0.04
_LEAST_SCORE = 0.37
_LEAST_PART = 0.2
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
    score = float(ranking.scores[place])
    if score >= max(_LEAST_SCORE, nearest + _LEAST_PART * (1 - nearest)):
        return False
    own = _mean_row(reference, int(ranking.tracks[place]))
    kin = [float(own @ _mean_row(reference, int(ranking.tracks[other]))) for other in cohort]
    return float(np.mean(kin)) >= _LEAST_KIN


def _mean_row(reference: Reference, track: int) -> np.ndarray:
    num = int(reference.num_rows[track])
    rows = np.unique(np.linspace(0, num - 1, _NUM_ROWS).astype(np.int64))
    stored = reference.snapshot.vectors[int(reference.first_rows[track]) + rows]
    return stored.astype(np.float32).mean(axis=0)

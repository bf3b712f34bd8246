"""`confp calibrate`: fits the match threshold to one database."""

import dataclasses
import json
from collections.abc import Callable

import numpy as np

from confp_jax.database import Database, DatabaseError
from confp_jax.fingerprint.embedder import Embedder
from confp_jax.library.open import CALIBRATION_SETTING, open_reference
from confp_jax.matching.decision import Decision, fit_tail, load_decision
from confp_jax.matching.ranking import rank
from confp_jax.matching.searchable import Reference
from confp_jax.matching.shared_sections import shared_sections

_SEED = 0  # of the excerpts
LEAST_TRACKS = 20


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What was measured: the tail of unknown queries' logits for each length of query."""

    identity: str  # weights hash of the model, as it is stored
    num_tracks: int
    num_excerpts: int
    num_same: int  # excerpts that were left out because their recording is there twice
    lengths_s: list[float]
    tails: list[list[float]]


def calibrate_database(
    database: Database,
    embedder: Embedder,
    *,
    num_excerpts: int = 1000,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Calibration:
    """Fits the match threshold to a database, and stores it there.

    Excerpts of the database's own tracks are searched with their own track left out: their scores
    are those of unknown queries. The excerpts are stored windows, so they have no edge windows.
    Recordings that are there twice would look like false alarms: they are found first and left out.

    Args:
      database: the one to calibrate.
      embedder: of the database's model.
      num_excerpts: how many are searched of each length of query.
      report: called with the number of excerpts that were searched, and of all.

    Returns:
      What was measured and stored.

    Raises:
      DatabaseError: too few tracks, or a model without a calibration.
    """
    decision = load_decision(embedder.folder, embedder.weights_hash)
    reference = open_reference(database, embedder)
    lengths_s = [length for length in decision.lengths_s if length >= reference.segment_s]
    if not decision.calibrated:
        raise DatabaseError(
            f"{embedder.name} has no decision.json: run `python -m confp_jax.evaluation.calibrate` "
            "for it first"
        )
    _check_can_calibrate(database, embedder, reference, lengths_s)
    same = {
        frozenset((section.track, section.other))
        for section in shared_sections(reference, decision)
    }
    rng = np.random.default_rng(_SEED)
    total = num_excerpts * len(lengths_s)
    tails = []
    num_same = 0
    for place, length_s in enumerate(lengths_s):
        logits = []
        for number in range(num_excerpts):
            track = int(rng.integers(reference.num_tracks))
            logit, twice = _unknown(reference, decision, track, length_s, same, rng)
            num_same += twice
            logits.append(logit)
            report(place * num_excerpts + number + 1, total)
        tails.append(fit_tail(np.array(logits)).round(4).tolist())
    found = Calibration(
        embedder.weights_hash, reference.num_tracks, num_excerpts, num_same, lengths_s, tails
    )
    database.set_setting(CALIBRATION_SETTING, json.dumps(dataclasses.asdict(found)))
    return found


def _check_can_calibrate(
    database: Database, embedder: Embedder, reference: Reference, lengths_s: list[float]
) -> None:
    if reference.num_tracks < LEAST_TRACKS:
        raise DatabaseError(
            f"{database.folder} holds {reference.num_tracks} tracks; calibration needs at least "
            f"{LEAST_TRACKS}"
        )
    if not lengths_s:
        raise DatabaseError(
            f"{embedder.name}'s decision.json knows no query of {reference.segment_s:g} s or more, "
            "the length of what is stored; calibrate it again with such `lengths_s`"
        )


def _unknown(
    reference: Reference,
    decision: Decision,
    track: int,
    length_s: float,
    same: set[frozenset[int]],
    rng: np.random.Generator,
) -> tuple[float, bool]:
    """Returns the logit of an excerpt of a track among the others, and whether one of them is the
    same recording.
    """
    num_rows = int(reference.num_rows[track])
    num = min(num_rows, 1 + round((length_s - reference.segment_s) / reference.hop_s))
    first = int(rng.integers(num_rows - num + 1))
    query = reference.query_of(track, first, first + num)
    ranking = rank(query, reference, without=track)
    twins = [int(other) for other in ranking.tracks if frozenset((track, int(other))) in same]
    for other in twins:
        ranking = ranking.without(other)
    judged = decision.judge(
        ranking, length_s=query.loud_s, num_tracks=reference.num_tracks - 1 - len(twins)
    )
    return (float(judged.logits[0]) if len(judged.logits) else -20.0), bool(twins)

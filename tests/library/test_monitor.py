"""What a monitor reports of spans: each play once, whichever of its copies is surest."""

import types

import numpy as np
from planted_rows import HOP_S, SEGMENT_S, reference_of
from unit_vectors import normalised, unit_rows

from confp_jax.fingerprint.query import Query
from confp_jax.library.monitor import moments
from confp_jax.matching.decision import uncalibrated

SONG = unit_rows(0, 60)
STRANGERS = [unit_rows(seed, 60) for seed in range(1, 41)]


def reported(tracks: list[np.ndarray], *heard: np.ndarray) -> list[tuple]:
    """What `moments` reports of a stream: kind, track, copies, begin."""
    vectors = np.concatenate(heard).astype(np.float32)
    query = Query(vectors, HOP_S, SEGMENT_S)

    def stream(blocks, *, hop_s, windows_at_once):
        for first in range(0, len(vectors), windows_at_once):
            yield query.part(first, min(first + windows_at_once, len(vectors)))

    searcher = types.SimpleNamespace(
        reference=reference_of(tracks),
        decision=uncalibrated(),
        embedder=types.SimpleNamespace(stream=stream),
        found=lambda span: span,
    )
    events = []
    for moment in moments(searcher, iter(())):
        events += [("playing", one.track) for one in moment.started]
        events += [
            ("match", one.track, len(one.copies), round(one.query_s)) for one in moment.finished
        ]
    return events


def test_a_recording_that_is_there_many_times_is_reported_once():
    noisy = normalised(SONG + 0.3 * unit_rows(900, len(SONG)))
    for copies in ([SONG, SONG], [noisy, SONG, SONG, noisy]):
        events = reported([*STRANGERS, *copies], unit_rows(500, 20), SONG, unit_rows(501, 60))
        (_, first), (_, last, num_copies, begin_s) = events
        assert first >= 40 and last >= 40 and num_copies == len(copies) - 1 and begin_s == 7


def test_plays_of_it_in_a_row_are_each_reported():
    heard = [unit_rows(500, 20), SONG, SONG, STRANGERS[3], unit_rows(501, 60)]
    events = reported([*STRANGERS, SONG, SONG], *heard)
    assert [event for event in events if event[0] == "playing"] == [("playing", 40)] * 2 + [
        ("playing", 3)
    ]
    assert [event[3] for event in events if event[0] == "match"] == [7, 25, 43]

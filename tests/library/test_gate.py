"""The gate before the model: what is quieter than it costs no work."""

import numpy as np

from confp_jax.audio.level import LevelMeter
from confp_jax.library.add import add_paths
from confp_jax.library.monitor import moments
from confp_jax.library.searcher import Searcher
from confp_jax.matching import spans

RATE = 16_000


def test_a_silent_room_runs_no_model_and_no_search(database, embedder, files, monkeypatch):
    add_paths(database, embedder, files[:2])
    searcher = Searcher(database, embedder)
    work: list[str] = []
    clips = embedder._clips
    encode = clips._encode_batch
    rank = spans.rank
    monkeypatch.setattr(clips, "_encode_batch", lambda *a: (work.append("model"), encode(*a))[1])
    monkeypatch.setattr(spans, "rank", lambda *a, **k: (work.append("search"), rank(*a, **k))[1])
    room = 10 ** (-70 / 20) * np.random.default_rng(0).normal(size=30 * RATE).astype(np.float32)
    meter = LevelMeter(RATE)
    heard = [moment.heard_s for moment in moments(searcher, meter.through([room]))]
    assert heard and not work
    loud = [moment.heard_s for moment in moments(searcher, LevelMeter(RATE).through([100 * room]))]
    assert loud == heard and {"model", "search"} == set(work)

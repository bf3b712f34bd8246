"""Monitoring with the tracks of the moment: a session may last for days, and tracks come and go
meanwhile.
"""

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Float32

from confp_jax.fingerprint.fingerprints import AudioError
from confp_jax.library.monitor import Event, monitor
from confp_jax.service.engine import Engine

_LEAST_S = 30.0  # with one view: what plays is told to be over where the next one begins


def follow(engine: Engine, blocks: Iterable[Float32[np.ndarray, " n"]]) -> Iterator[Event]:
    """Events as `monitor` gives them: a track that was removed is no longer reported, one that was
    added is heard within 30 s.

    Raises:
      AudioError: less than 1 s in all.
      DecodeError: what `blocks` raises.
    """
    waiting, heard_s, goes_on = iter(blocks), 0.0, True
    while goes_on:
        view, before_s = engine.view, heard_s

        def part(view=view, before_s=before_s) -> Iterator[Float32[np.ndarray, " n"]]:
            nonlocal heard_s, goes_on
            for block in waiting:
                heard_s += len(block) / engine.sample_rate_hz
                yield block
                if engine.view is not view and heard_s - before_s >= _LEAST_S:
                    return
            goes_on = False

        try:
            for event in monitor(view.searcher, part()):
                if engine.view is view or event.found.id in engine.view.tracks:
                    yield _later(event, before_s)
        except AudioError:
            if not before_s:  # else it is a rest of less than 1 s
                raise


def _later(event: Event, before_s: float) -> Event:
    found = dataclasses.replace(
        event.found, query_offset_s=round(event.found.query_offset_s + before_s, 3)
    )
    return dataclasses.replace(event, found=found, heard_s=round(event.heard_s + before_s, 3))

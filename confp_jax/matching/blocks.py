"""Recordings of any length: cut into blocks of two lengths, so that whole tracks and short pieces
are both found.
"""

import dataclasses
from collections.abc import Iterable, Iterator

from confp_jax.fingerprint.query import Query, joined
from confp_jax.matching.searchable import Reference
from confp_jax.matching.spans import Block, Judge, Span, SpanTracker

BLOCK_WINDOWS, STEP_WINDOWS = 24, 12  # 9.9 s, the longest query that is calibrated, every 3.6 s
SHORT_WINDOWS, SHORT_STEP_WINDOWS = 8, 6  # 5.1 s every 1.8 s: pieces of 6 s and more
_LONGEST_BLOCK = BLOCK_WINDOWS + STEP_WINDOWS  # a recording up to this length is one block
TRIALS_PER_STEP = 1 + STEP_WINDOWS // SHORT_STEP_WINDOWS


class Scan:
    """The spans of one recording, of both lengths of block; `num_trials` counts the searches that
    could raise an alarm. Numbers of spans of short blocks are negative.

    Args:
      reference: what is searched.
      decision: what judges.
      keep_all: as of `SpanTracker`.
      is_endless: whether each search has its own rate of false alarms, as in `monitor`; else it is
        the recording's, which its searches share.
    """

    def __init__(
        self,
        reference: Reference,
        decision: Judge,
        *,
        keep_all: bool = False,
        is_endless: bool = False,
    ):
        self.num_trials = 0
        self._is_endless = is_endless
        self._long, self._short = (
            SpanTracker(reference, decision, new_part=step / windows, keep_all=keep_all)
            for windows, step in (
                (BLOCK_WINDOWS, STEP_WINDOWS),
                (SHORT_WINDOWS, SHORT_STEP_WINDOWS),
            )
        )

    def push(self, block: Block) -> list[Span]:
        """Ranks a block of `joined_blocks` and the short ones in it; returns the spans that are
        over.
        """
        spans = self._long.push(block)
        self.num_trials += 1
        shorts = list(_short_blocks(block))
        short_spans = [_as_short(span) for short in shorts for span in self._short.push(short)]
        if _is_whole(block) and shorts and not self._is_endless:
            # The recording as one block, which is likelier to find it, has half of the alarms.
            self.num_trials += 1
            return spans + [_rarer(span, len(shorts)) for span in short_spans]
        self.num_trials += len(shorts)
        return spans + short_spans

    @property
    def current(self) -> list[Span]:
        """The open spans, as they would end now."""
        return [*self._long.current, *map(_as_short, self._short.current)]


def scan(query: Query, reference: Reference, decision: Judge) -> list[Span]:
    """Returns all spans of a recording that is there as a whole."""
    scanning = Scan(reference, decision)
    return [span for block in joined_blocks([query]) for span in scanning.push(block)]


def joined_blocks(parts: Iterable[Query]) -> Iterator[Block]:
    """Yields consecutive fingerprints of one recording as overlapping blocks.

    The last block takes what is left over, so that none is short unless the recording is.
    """
    held, start = None, 0
    for part in parts:
        held = part if held is None else joined([held, part])
        while len(held.vectors) > _LONGEST_BLOCK:
            yield Block(held.part(0, BLOCK_WINDOWS), start, is_last=False)
            held, start = held.part(STEP_WINDOWS, len(held.vectors)), start + STEP_WINDOWS
    if held is not None:
        yield Block(held, start, is_last=True)


def _is_whole(block: Block) -> bool:
    """Returns whether a block is all of the recording."""
    return block.first_window == 0 and block.is_last


def _as_short(span: Span) -> Span:
    return dataclasses.replace(span, number=-1 - span.number)


def _rarer(span: Span, num: int) -> Span:
    """Returns a span of one of `num` searches that share an alarm's probability."""
    return dataclasses.replace(span, alarm_rate=min(1.0, num * span.alarm_rate))


def _short_blocks(block: Block) -> Iterator[Block]:
    """Yields the short blocks that a block is the first to hold whole; none where it is the whole
    recording, and this no longer than a block that is calibrated.
    """
    if _is_whole(block) and len(block.query.vectors) <= BLOCK_WINDOWS:
        return
    num = len(block.query.vectors)
    begin = 0 if block.first_window == 0 else BLOCK_WINDOWS - STEP_WINDOWS - SHORT_STEP_WINDOWS
    starts = range(begin, num - SHORT_WINDOWS + 1, SHORT_STEP_WINDOWS)
    for start in starts:
        short = block.query.part(start, start + SHORT_WINDOWS)
        yield Block(
            short, block.first_window + start, is_last=block.is_last and start == starts[-1]
        )

"""What a compiled training step costs each chip, and what that means in time and for larger
batches.
"""

import dataclasses
import re
from typing import NamedTuple

from confp_jax.training.accelerators import Chip

_COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_ITEM_BYTES = {"f32": 4, "bf16": 2, "s32": 4, "u32": 4, "pred": 1, "f16": 2, "s8": 1, "u8": 1}


class Collective(NamedTuple):
    """One kind of collective in the compiled step: how many instructions, and the bytes of their
    results on each chip.
    """

    num: int
    num_bytes: int


@dataclasses.dataclass(frozen=True)
class StepCost:
    """What one training step costs each chip."""

    num_chips: int
    batch_size: int  # pairs, of all chips
    state_bytes: int  # weights, moments, statistics
    audio_bytes: int  # the set, where it is in the chips' memory (data.residency=device)
    peak_bytes: int  # audio, state, batch and everything between
    flops: float
    bytes_moved: float  # to and from the chip's memory
    collectives: dict[str, Collective]
    compile_s: float

    def step_s(self, chip: Chip) -> float:
        """Returns the roofline: arithmetic, memory and links each at their peak, the slowest of
        them decides.
        """
        linked_s = self.linked_bytes / chip.link_bytes_per_s
        return max(
            self.flops / chip.bf16_flops, self.bytes_moved / chip.memory_bytes_per_s, linked_s
        )

    @property
    def linked_bytes(self) -> float:
        """Returns what each chip sends to the next in a ring.

        An all-reduce is a reduce-scatter and an all-gather: twice its result.
        """
        of_others = (self.num_chips - 1) / self.num_chips
        factors = {
            "all-reduce": 2 * of_others,
            "reduce-scatter": self.num_chips - 1,
            "collective-permute": 1,
        }
        return sum(
            factors.get(kind, of_others) * found.num_bytes
            for kind, found in self.collectives.items()
        )


def count_collectives(hlo: str) -> dict[str, Collective]:
    """Returns the collectives of a compiled program's text, by kind, with the bytes of their
    results.
    """
    found: dict[str, Collective] = {}
    for line in hlo.splitlines():
        match = re.search(rf" = (.+?) ({'|'.join(_COLLECTIVES)})(-start)?\(", line)
        if match:
            shapes = re.findall(r"(\w+)\[([\d,]*)\]", match[1])
            # The result of a -start holds the operand as well: the last shape is the result's.
            shapes = shapes[-1:] if match[3] and match[2] == "all-gather" else shapes
            size = sum(_ITEM_BYTES.get(kind, 4) * _product(dims) for kind, dims in shapes)
            num, num_bytes = found.get(match[2], (0, 0))
            found[match[2]] = Collective(num + 1, num_bytes + size)
    return found


def _product(dimensions: str) -> int:
    out = 1
    for side in dimensions.split(","):
        out *= int(side or 1)
    return out


def forecast_largest(small: StepCost, large: StepCost, memory_bytes: float) -> int:
    """Returns pairs whose step would fill 90 % of a chip, by a line through two compiled batches
    and the n^2 logits of the loss.

    Rounded down to what divides over the chips and a multiple of 8 each.
    """
    chips = small.num_chips

    def logits(batch: float) -> float:
        return (
            3 * 4 * (2 * batch) ** 2 / chips
        )  # the block of a chip and its gradient, float32, kept about three times

    slope = (
        large.peak_bytes - small.peak_bytes - logits(large.batch_size) + logits(small.batch_size)
    ) / (large.batch_size - small.batch_size)
    fixed = small.peak_bytes - slope * small.batch_size - logits(small.batch_size)
    grain = 8 * chips
    batch = 0
    while fixed + slope * (batch + grain) + logits(batch + grain) <= 0.9 * memory_bytes:
        batch += grain
    return batch

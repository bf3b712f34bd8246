"""The error that every way of decoding raises, and what is reported about audio that was lost."""

import dataclasses

from confp_jax.errors import UserError

NOTED_S = 0.05


class DecodeError(UserError):
    """A file that is no usable audio; the message names the file, the cause and the remedy."""


@dataclasses.dataclass
class Losses:
    """What of a recording could not be decoded; filled in while it is decoded."""

    damaged_s: float = 0.0  # packets that could not be decoded, and what follows the last one
    missing_s: float = 0.0  # places between packets, heard as silence

    @property
    def lost_s(self) -> float:
        """Seconds that were lost: a damaged packet may leave a place between two others."""
        return max(self.damaged_s, self.missing_s)

    def notes(self) -> list[str]:
        """Returns a note for users; none where nothing was lost."""
        if self.lost_s < NOTED_S:
            return []
        return [f"is damaged: {self.lost_s:.1f} s are missing or could not be decoded"]

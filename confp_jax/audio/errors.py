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
    heard_s: float = 0.0
    num_damaged: int = 0  # packets of streams, whose length FFmpeg's program does not tell

    @property
    def lost_s(self) -> float:
        """Seconds that were lost: a damaged packet may leave a place between two others."""
        return max(self.damaged_s, self.missing_s)

    def notes(self) -> list[str]:
        """Returns a note for users; none where nothing was lost."""
        lost_s = self.lost_s
        if lost_s >= NOTED_S:
            share = f" of {lost_s + self.heard_s:.1f} s" if self.heard_s else ""
            return [f"is damaged: {lost_s:.1f} s{share} are missing or could not be decoded"]
        if self.num_damaged:
            return [f"is damaged: {self.num_damaged} packets could not be decoded"]
        return []

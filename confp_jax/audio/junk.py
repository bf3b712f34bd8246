"""Bytes between the frames of formats that consist of frames alone."""

# Bytes of a frame at most: FFmpeg gives what it passes over together with the frame before it.
_LARGEST = {"mp3": 1_728, "aac": 4_608, "ac3": 3_840, "eac3": 4_096, "sbc": 1_032}
_TAGS = (b"ID3", b"TAG", b"APETAGEX")  # of files that were joined


class Junk:
    """Takes packets, and estimates how much audio was lost between their frames."""

    def __init__(self, kind: str):
        self._largest = _LARGEST.get(kind, 0)
        self._num_bytes = 0
        self._length_s = 0.0
        self._pending = 0

    def lost_s(self, packet: bytes, length_s: float) -> float:
        """Returns how many seconds were lost before a packet that is `length_s` long. What follows
        the last packet is not counted: it may be a tag.
        """
        if not self._largest or not packet:
            return 0.0
        if len(packet) > self._largest:
            if not any(mark in packet for mark in _TAGS):
                self._pending += len(packet)
            return 0.0
        lost = self._pending
        self._pending = 0
        self._num_bytes += len(packet)
        self._length_s += length_s
        return lost * self._length_s / self._num_bytes

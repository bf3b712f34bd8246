"""Headers that nobody completed: lengths of 0 or without end, and tags before the header."""

import os
import pathlib
import struct

_WAVES = (b"RIFF", b"RF64", b"BW64", b"RIFX", b"FORM")
_LONG_WAVES = (b"RF64", b"BW64")  # their lengths stand in a chunk of their own
_DS64_BYTES = 36  # RF64, length, "WAVE", "ds64", its length, the file's length, the data's
_TAG_BYTES = 10
_UNKNOWN = b"\xff\xff\xff\xff"


def content_start(path: pathlib.Path) -> int:
    """Returns where a WAV or AIFF file begins behind an ID3 tag; 0 for all other files, whose
    decoders know such tags.
    """
    with open(path, "rb") as file:
        head = file.read(_TAG_BYTES)
        if len(head) < _TAG_BYTES or head[:3] != b"ID3":
            return 0
        length = 0
        for byte in head[6:]:  # seven bits each
            length = length << 7 | byte & 0x7F
        file.seek(_TAG_BYTES + length)
        return _TAG_BYTES + length if file.read(4) in _WAVES else 0


def completed_start(path: pathlib.Path, first: int) -> bytes:
    """Returns what stands for a file's first bytes (from `first` on) where its header gives no
    length of the sound: all that follows is sound then. b"" for a header that is complete.
    """
    with open(path, "rb") as file:
        left = os.fstat(file.fileno()).st_size - first
        file.seek(first)
        head = file.read(_DS64_BYTES)
    if head[:4] == b".snd" and head[8:12] == bytes(4):
        return head[:8] + _UNKNOWN
    if head[:4] in _LONG_WAVES and head[12:16] == b"ds64" and len(head) == _DS64_BYTES:
        (num_bytes,) = struct.unpack("<Q", head[28:36])
        if not 0 < num_bytes <= left:  # as a plain WAV file that was written to a pipe
            return b"RIFF" + _UNKNOWN + head[8:12] + b"junk"
    return b""

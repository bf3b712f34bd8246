"""Bytes between frames: how long the audio was that they stand for."""

import pytest

from confp_jax.audio.junk import Junk

FRAME = bytes(400)
FRAME_S = 0.025


def test_they_are_as_long_as_frames_of_so_many_bytes():
    junk = Junk("mp3")
    assert junk.lost_s(FRAME, FRAME_S) == 0.0
    assert junk.lost_s(bytes(4_000), FRAME_S) == 0.0  # larger than any frame
    assert junk.lost_s(FRAME, FRAME_S) == pytest.approx(10 * FRAME_S)
    assert junk.lost_s(FRAME, FRAME_S) == 0.0, "reported once"


@pytest.mark.parametrize(
    ("kind", "between"), [("mp3", b"ID3" + bytes(4_000)), ("vorbis", bytes(4_000))]
)
def test_tags_of_joined_files_and_formats_with_a_container_lose_nothing(kind, between):
    junk = Junk(kind)
    for packet in (FRAME, between, FRAME):
        assert junk.lost_s(packet, FRAME_S) == 0.0

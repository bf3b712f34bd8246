"""Names and paths: as they are stored, and when two of them are the same."""

import os

import pytest

from confp_jax.database.names import (
    folded,
    meaning,
    meant_by,
    restored_path,
    storable,
    stored_path,
)
from confp_jax.database.records import StoredTrack


@pytest.mark.parametrize(
    "raw",
    [
        b"/m/caf\xe9.wav",
        b"/m/\\xe9.wav",
        b"/m/\\x5c\xff\\.wav",
        "/m/音楽 \\x.wav".encode(),
        b"\\\xe9",
    ],
)
def test_the_bytes_of_a_path_come_back(raw):
    text = stored_path(os.fsdecode(raw))
    text.encode("utf-8")
    assert os.fsencode(restored_path(text)) == raw


def test_an_older_catalogues_escapes_are_read():
    assert os.fsencode(restored_path("/m/caf\\xe9.wav")) == b"/m/caf\xe9.wav"


def test_equal_in_unicodes_sense():
    assert folded("BJÖRK") == folded("bjo\u0308rk") and folded("ß") == folded("SS")


def named(*names: str) -> list[StoredTrack]:
    return [
        StoredTrack(name, f"/müsic/{number}.wav", str(number), 1.0, 0, 1, id=number)
        for number, name in enumerate(names, 1)
    ]


@pytest.mark.parametrize(
    ("names", "wanted", "ids"),
    [
        (("Björk", "two"), "Bjo\u0308rk", [1]),
        (("Björk", "two"), "/mu\u0308sic/2.wav", [2]),
        (("a", "b"), "2", [2]),
        (("1", "10", "2"), "2", [3]),  # and not the track of the id 2
        (("1", "10", "12"), "3", []),  # names are numbers here: an id must be asked for as an id
        (("a", "a"), "a", [1, 2]),
    ],
)
def test_what_a_user_means(names, wanted, ids):
    tracks = named(*names)
    numbers = any(track.name.isdecimal() for track in tracks)
    found = meant_by(tracks, wanted, has_numbers=numbers)
    assert [track.id for track in found] == ids
    may_be = meaning(wanted)
    assert all(may_be(t.name, stored_path(t.path), t.id) for t in found)


def test_half_a_letter_can_be_stored():
    assert storable("a\ud800\udce9") == "a\\ud800\\xe9"

"""Tags as real files carry them."""

import pathlib
import struct
import subprocess

import av
import numpy as np
import pytest
import soundfile

from confp_jax.audio.tags import Tags, read_tags

EXPECTED = Tags("Déjà vu", "Björk & Co", "A / B")
RATE = 16_000


def write(path: pathlib.Path) -> None:
    samples = np.zeros(RATE, np.float32)
    if path.suffix in (".m4a", ".mp3"):
        with av.open(str(path), "w") as container:
            container.metadata.update(
                {"title": "Déjà  vu", "artist": "Björk & Co", "album": "A / B"}
            )
            stream = container.add_stream("aac" if path.suffix == ".m4a" else "mp3", rate=RATE)
            stream.layout = "mono"
            frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
            frame.sample_rate = RATE
            for packet in [*stream.encode(frame), *stream.encode(None)]:
                container.mux(packet)
        return
    with soundfile.SoundFile(path, "w", RATE, 1) as file:
        file.title = "Déjà  vu"
        file.artist = "Björk & Co"
        file.album = "A / B"
        file.write(samples)


@pytest.mark.parametrize("suffix", ["m4a", "mp3", "flac", "ogg", "wav"])
def test_every_container(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    write(path)
    assert read_tags(path) == EXPECTED


def test_none_is_no_error(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(RATE), RATE)
    (tmp_path / "rubbish.mp3").write_bytes(np.random.default_rng(0).bytes(5_000))
    (tmp_path / "empty").write_bytes(b"")
    for name in ("a.wav", "rubbish.mp3", "empty", "missing"):
        assert read_tags(tmp_path / name) == Tags()


ALL = Tags(
    "Ein Lied",
    "Jemand",
    "Platte",
    "Verschiedene",
    "3",
    "1994",
    "Läbel",
    "DEABC9400001",
    "11111111-2222-3333-4444-555555555555",
    "99999999-2222-3333-4444-555555555555",
)
COMMON = {
    "title": "Ein Lied",
    "artist": "Jemand",
    "album": "Platte",
    "album_artist": "Verschiedene",
    "track": "03/12",
    "date": "1994-05-01",
}
VORBIS = COMMON | {
    "LABEL": "Läbel",
    "ISRC": "DE-ABC-94-00001",
    "MUSICBRAINZ_TRACKID": ALL.musicbrainz_recording_id,
    "ACOUSTID_ID": ALL.acoustid,
}
ID3 = COMMON | {"publisher": "Läbel", "TSRC": "DEABC9400001", "Acoustid Id": ALL.acoustid}
MP4 = COMMON | {
    "label": "Läbel",
    "ISRC": "deabc9400001",
    "MusicBrainz Track Id": ALL.musicbrainz_recording_id,
    "Acoustid Id": ALL.acoustid,
}


def tagged(path: pathlib.Path, tags: dict[str, str], *options: str) -> None:
    texts = [part for name, text in tags.items() for part in ("-metadata", f"{name}={text}")]
    command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "sine=d=0.2", *texts, *options]
    subprocess.run([*command, str(path)], check=True)


def with_owners_identifier(path: pathlib.Path) -> None:
    """Puts MusicBrainz' own frame into an ID3v2.4 tag, as Picard does; FFmpeg writes none."""
    data = path.read_bytes()
    content = b"http://musicbrainz.org\0" + ALL.musicbrainz_recording_id.encode()
    frame = b"UFID" + bytes([0, 0, 0, len(content)]) + b"\0\0" + content
    size = sum((byte & 0x7F) << 7 * (3 - i) for i, byte in enumerate(data[6:10])) + len(frame)
    header = data[:6] + bytes(size >> 7 * (3 - i) & 0x7F for i in range(4))
    path.write_bytes(header + frame + data[10:])


def with_ape_tag(path: pathlib.Path, tags: dict[str, str]) -> None:
    items = b"".join(
        struct.pack("<II", len(text.encode()), 0) + name.encode() + b"\0" + text.encode()
        for name, text in tags.items()
    )
    footer = struct.pack("<8sIIII8x", b"APETAGEX", 2000, len(items) + 32, len(tags), 0)
    path.write_bytes(path.read_bytes() + items + footer)


@pytest.mark.parametrize(
    ("suffix", "tags", "options"),
    [
        ("flac", VORBIS, ()),
        ("ogg", VORBIS, ()),
        ("opus", VORBIS, ()),
        ("m4a", MP4, ("-movflags", "use_metadata_tags")),
        ("wv", VORBIS | {"Album Artist": "Verschiedene"}, ()),
        ("mka", VORBIS, ()),
    ],
)
def test_every_tag_of_every_container(tmp_path, suffix, tags, options):
    tagged(tmp_path / f"a.{suffix}", tags, *options)
    assert read_tags(tmp_path / f"a.{suffix}") == ALL


def test_every_tag_of_id3_also_the_recordings_identifier(tmp_path):
    tagged(tmp_path / "a.mp3", ID3)
    with_owners_identifier(tmp_path / "a.mp3")
    assert read_tags(tmp_path / "a.mp3") == ALL


@pytest.mark.parametrize("after", [b"", b"TAG" + bytes(125)])
def test_an_ape_tag_at_the_end_of_an_mp3(tmp_path, after):
    tagged(tmp_path / "a.mp3", {}, "-id3v2_version", "0", "-write_id3v1", "0")
    with_ape_tag(tmp_path / "a.mp3", {"Year": "1994", "Track": "3"} | VORBIS)
    with open(tmp_path / "a.mp3", "ab") as file:
        file.write(after)
    assert read_tags(tmp_path / "a.mp3") == ALL


def test_what_has_not_the_form_of_an_identifier_is_left_out(tmp_path):
    wrong = {"ISRC": "none", "MUSICBRAINZ_TRACKID": "12", "ACOUSTID_ID": "x", "date": "in May"}
    tagged(tmp_path / "a.flac", wrong | {"track": "A1"})
    assert read_tags(tmp_path / "a.flac") == Tags(track_number="A1")


def test_only_the_texts_of_an_ape_tag_are_read(tmp_path):
    """A picture's flags say that it is binary."""
    tagged(tmp_path / "a.mp3", {}, "-id3v2_version", "0", "-write_id3v1", "0")
    with_ape_tag(tmp_path / "a.mp3", {"Title": "Ein Lied", "Artist": "no text"})
    data = (tmp_path / "a.mp3").read_bytes()
    artist = data.rindex(b"Artist")
    (tmp_path / "a.mp3").write_bytes(data[: artist - 4] + b"\2\0\0\0" + data[artist:])
    assert read_tags(tmp_path / "a.mp3") == Tags(title="Ein Lied")


def test_the_artist_is_the_albums_where_the_track_has_none(tmp_path):
    tagged(tmp_path / "a.flac", {"album_artist": "Jemand"})
    assert read_tags(tmp_path / "a.flac") == Tags(artist="Jemand", album_artist="Jemand")


def test_a_damaged_ape_tag_is_none(tmp_path):
    tagged(tmp_path / "a.mp3", {"title": "Ein Lied"})
    rubbish = struct.pack("<8sIIII8x", b"APETAGEX", 2000, 60, 9_999, 0)
    with open(tmp_path / "a.mp3", "ab") as file:
        file.write(b"\xff" * 28 + rubbish)
    assert read_tags(tmp_path / "a.mp3") == Tags(title="Ein Lied")

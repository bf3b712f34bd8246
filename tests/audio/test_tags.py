"""Tags as real files carry them."""

import pathlib

import av
import numpy as np
import pytest
import soundfile

from confp_jax.audio.decode import Tags, read_tags

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
        file.title, file.artist, file.album = "Déjà  vu", "Björk & Co", "A / B"
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

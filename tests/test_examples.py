"""The examples in the docstrings of the functions that a user calls first: each is run."""

import doctest
import pathlib
import shutil
from collections.abc import Callable

import numpy as np
import pytest
import soundfile

import confp_jax
from confp_jax.audio.decode import decode
from confp_jax.library.compare import compare_files

RATE_HZ = 16_000
SHOWN = {
    "confp_jax.open": confp_jax.open,
    "Library.add": confp_jax.Library.add,
    "Library.identify": confp_jax.Library.identify,
    "Library.identify_file": confp_jax.Library.identify_file,
    "Library.remove": confp_jax.Library.remove,
    "Library.update": confp_jax.Library.update,
    "Library.tracks": confp_jax.Library.tracks,
    "Library.duplicates": confp_jax.Library.duplicates,
    "Library.refresh": confp_jax.Library.refresh,
    "load_encoder": confp_jax.load_encoder,
    "Embedder.embed": confp_jax.Embedder.embed,
    "decode": decode,
    "compare_files": compare_files,
}


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory, root: pathlib.Path) -> dict[str, object]:
    """What the examples use: two tracks in music/, 4 s of one in clip.wav, a library of both."""
    folder = tmp_path_factory.mktemp("examples")
    (folder / "music").mkdir()
    for name in ("tim-beek_the-protagonist", "shawn-parrotte_desert"):
        content = (root / "examples" / "music" / f"{name}.mp3").read_bytes()[:48_100]  # 9.6 s
        (folder / "music" / f"{name.partition('_')[2]}.mp3").write_bytes(content)
    (folder / "no-audio.txt").write_text("no audio")
    track = decode(folder / "music" / "the-protagonist.mp3", sample_rate_hz=RATE_HZ).samples
    samples = track[4 * RATE_HZ : 8 * RATE_HZ]
    soundfile.write(folder / "clip.wav", samples, RATE_HZ)
    library = confp_jax.open(folder / "library.db")
    library.add(folder / "music")
    encoder = confp_jax.load_encoder("edge2")
    return {"folder": folder, "samples": samples, "library": library, "encoder": encoder}


@pytest.mark.parametrize("name", SHOWN)
def test_an_example_gives_what_it_shows(
    name: str, names: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = names["folder"]
    assert isinstance(folder, pathlib.Path)
    monkeypatch.chdir(folder)
    shutil.rmtree("music.db", ignore_errors=True)
    shown: Callable[..., object] = SHOWN[name]
    known = names | {"confp_jax": confp_jax, "np": np} | {f.__name__: f for f in SHOWN.values()}
    (test,) = doctest.DocTestFinder(recurse=False).find(shown, name, module=False, globs=known)
    assert test.examples, f"the docstring of {name} shows no example"
    said: list[str] = []
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS)
    assert runner.run(test, out=said.append).failed == 0, "".join(said)

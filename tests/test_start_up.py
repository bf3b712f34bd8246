"""What a fresh interpreter loads: no JAX, no optimizer, no training data where none is needed."""

import pathlib
import subprocess
import sys

import pytest
from test_layers import JAX, python_files

ROOT = pathlib.Path(__file__).resolve().parents[1]


def modules_after(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after `code`."""
    report = (
        f"{code}\nimport sys; print('\\n'.join(name for name in sys.modules if '.' not in name))"
    )
    done = subprocess.run(
        [sys.executable, "-c", report], capture_output=True, text=True, timeout=600, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_the_command_line_answers_without_jax():
    help_text = (
        "from confp_jax.cli import main\ntry:\n    main(['identify', '--help'])\nexcept "
        "SystemExit as e:\n    assert e.code == 0"
    )
    heavy = JAX | {"scipy", "soundfile", "av", "scann", "grain", "tensorflow_datasets"}
    assert modules_after(f"import confp_jax.cli\n{help_text}") & heavy == set()
    assert "soundfile" in modules_after("import confp_jax.audio.decode")  # the check can see it


def test_audio_records_and_preparation_workers_hold_no_jax():
    """Worker processes import these; JAX would cost each of them seconds and memory."""
    pytest.importorskip("grain")
    files = [
        file
        for file, _ in python_files()
        if file.startswith(("confp_jax/audio/", "confp_jax/data/", "data_prep/"))
    ]
    modules = [
        file.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for file in files
    ]
    modules.remove("confp_jax.data.input")  # Grain itself imports JAX where it finds it
    modules.remove("data_prep.beam")  # an extra of its own
    modules.remove("data_prep.duplicates")  # compares fingerprints, in one process
    assert len(modules) > 8
    assert (
        modules_after("\n".join(f"import {name}" for name in modules))
        & (JAX | {"torch", "tensorflow"})
        == set()
    )


def test_input_workers_start_no_jax_backend():
    """Grain imports JAX; what must not happen in a worker is that JAX takes hold of a device."""
    pytest.importorskip("grain")
    started = "xla_bridge.backends_are_initialized()"
    code = (
        f"from jax._src import xla_bridge\nassert not {started}\nimport "
        f"jax\njax.devices()\nassert {started}"
    )
    modules_after(f"import confp_jax.data.input\n{code}")

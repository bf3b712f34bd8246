"""Adding and identifying where JAX is not installed."""

import subprocess
import sys

BLOCKED = """
import sys

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"jax", "jaxlib", "flax", "optax", "orbax", "etils", "onnx"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NotInstalled())
from confp_jax.cli import main

db, song, out = sys.argv[1:]
assert main(["add", db, song]) == 0
assert main(["identify", db, song]) == 0
assert main(["add", db, song, "--engine", "jax"]) == 1
assert main(["export", "edge2", "--onnx", out]) == 1
"""


def test_the_commands_run(root, tmp_path):
    """With the shipped model, in ONNX Runtime; what needs JAX says so."""
    song = root / "examples" / "music" / "tim-beek_the-protagonist.mp3"
    command = [sys.executable, "-c", BLOCKED, tmp_path / "music.db", song, tmp_path / "out.onnx"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 added" in done.stdout and "tim-beek_the-protagonist at 0:00.0" in done.stdout
    assert "needs JAX: pip install 'confp-jax[jax]'" in done.stderr
    assert "export needs JAX and onnx" in done.stderr

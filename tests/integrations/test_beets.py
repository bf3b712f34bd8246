"""The beets plug-in in the real beets: import, identify, duplicates, candidates."""

import pathlib
import shutil

import pytest

beets = pytest.importorskip("beets")
pytestmark = pytest.mark.slow
PLUGIN = pathlib.Path(__file__).resolve().parents[2] / "integrations" / "beets" / "beetsplug"
CONFIG = """\
directory: {folder}/library
library: {folder}/library.db
import: {{copy: yes, write: no}}
plugins: confp
pluginpath: {plugin}
confp: {{database: {folder}/music.db, model: {model}}}
"""


@pytest.fixture
def beet(tmp_path, checkpoint, monkeypatch, capsys):
    """Runs beets with a configuration of its own."""
    config = CONFIG.format(folder=tmp_path, plugin=PLUGIN, model=checkpoint)
    (tmp_path / "config.yaml").write_text(config)
    monkeypatch.setenv("BEETSDIR", str(tmp_path))
    from beets import config as settings
    from beets import ui

    settings.clear()
    settings.read()

    def run(*words) -> str:
        ui._raw_main([str(word) for word in words])
        return capsys.readouterr().out

    return run


def test_a_library_of_beets(beet, files, tmp_path):
    beet("import", "-q", "-A", files[0].parent)
    assert beet("ls").count("\n") == 5
    clip = tmp_path / "clip.wav"
    shutil.copy(files[2], clip)
    library = tmp_path / "library"
    assert len(list(library.rglob("*.wav"))) == 5
    assert "5 unchanged" in beet("confpindex")
    said = beet("confp", clip, tmp_path / "missing.wav")
    assert f"{clip}: " in said and "no such file" in said
    assert "pairs share 2 s or more" in beet("confpdups", "--shortest", "2")

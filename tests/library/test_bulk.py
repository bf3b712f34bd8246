"""Bulk fingerprinting with Beam: two worker processes, a bad file, a second run, and the import."""

import pathlib
import shutil

import numpy as np
import pytest

from confp_jax.database import Database, DatabaseError
from confp_jax.library.add import add_paths
from confp_jax.library.open import open_or_create

pytest.importorskip("apache_beam")
pytest.importorskip("pyarrow")
_TWO_WORKERS = (
    "--runner=FnApiRunner",
    "--direct_num_workers=2",
    "--direct_running_mode=multi_processing",
)


def test_what_beam_fingerprints_is_what_add_adds(
    music_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    from confp_jax.library.beam import fingerprint_all
    from confp_jax.library.parquet import file_stamp, import_files

    music = tmp_path / "music"
    out = tmp_path / "out"
    music.mkdir()
    for path in sorted(music_dir.iterdir())[:3]:
        shutil.copy(path, music)
    shutil.copy(next(music.iterdir()), music / "again.mp3")
    (music / "bad.mp3").write_bytes(b"no music")
    settings = {"model": "edge", "files_per_shard": 3, "beam": _TWO_WORKERS}
    (failure,) = fingerprint_all([music], out, **settings)
    assert failure["path"].endswith("bad.mp3") and failure["error"]
    written = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert len(list(out.glob("*.parquet"))) == 2

    lost = next(
        out.glob("*.parquet")
    )  # killed before it was complete: this shard alone is made again
    (out / f"{lost.stem}.failures.jsonl").unlink()
    here = settings | {"beam": ("--runner=FnApiRunner",)}
    assert fingerprint_all([music], out, **here) == [failure]
    changed = {
        path.name.split(".")[0]
        for path in out.iterdir()
        if path.stat().st_mtime_ns != written.get(path)
    }
    assert changed == {lost.stem}

    with pytest.raises(
        DatabaseError, match=r"holds fingerprints of model \w+, not of small .*name another folder"
    ):
        fingerprint_all([music], out, **settings | {"model": "small"})

    imported = Database.create(tmp_path / "bulk.db", file_stamp(lost))
    assert import_files(imported, [out]).num_added == 3
    database, embedder = open_or_create(tmp_path / "added.db", "edge")
    add_paths(database, embedder, [music])
    ours = imported.snapshot()
    theirs = database.snapshot()
    assert {track.sha256 for track in ours.tracks} == {track.sha256 for track in theirs.tracks}
    rows = {t.sha256: theirs.vectors[t.first_row : t.first_row + t.num_rows] for t in theirs.tracks}
    for track in ours.tracks:
        found = ours.vectors[track.first_row : track.first_row + track.num_rows]
        np.testing.assert_allclose(
            found.astype(np.float32), rows[track.sha256].astype(np.float32), atol=2e-3
        )
        assert track.name and pathlib.Path(track.path).is_file()

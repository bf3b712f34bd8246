"""What others and earlier services leave to a service, without one that runs."""

import fcntl
import hashlib
import os
import tempfile
from typing import Any

import pytest
from starlette.datastructures import Headers

from confp_jax.cli.output import known_as
from confp_jax.database import StoredTrack
from confp_jax.library.searcher import Match
from confp_jax.service.metrics import Metrics
from confp_jax.service.middleware import Guard
from confp_jax.service.settings import Settings
from confp_jax.service.sharing import TrackFiles
from confp_jax.service.uploads import Uploads


def test_recordings_of_a_killed_service_are_removed_and_a_living_ones_are_not(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("confp_serve_killed", "confp_serve_living"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0").write_text("a recording")
    living = os.open(tmp_path / "confp_serve_living", os.O_RDONLY)
    fcntl.flock(living, fcntl.LOCK_EX)
    (tmp_path / "mine").mkdir()
    (tmp_path / "confp_serve_link").symlink_to(tmp_path / "mine")
    uploads = Uploads(Settings())
    uploads.close()
    os.close(living)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["confp_serve_link", "confp_serve_living", "mine"]


def test_only_a_tracks_own_content_below_a_shared_folder_is_played(tmp_path):
    shared = tmp_path / "shared"
    other = tmp_path / "other"
    for folder in (shared, other):
        folder.mkdir()
        (folder / "song").write_text("music")
    (shared / "token").write_text("secret")
    (shared / "link").symlink_to(other / "song")
    sha256 = hashlib.sha256(b"music").hexdigest()
    files = TrackFiles([shared])

    def playable(path: str) -> bool:
        return files.playable(StoredTrack("x", path, sha256, 3.0, 0, 1)) is not None

    assert playable(f"{shared}/song")
    for path in ("token", "link", "../other/song", "none", "song\0"):
        assert not playable(f"{shared}/{path}"), path
    assert not TrackFiles([]).playable(StoredTrack("x", f"{shared}/song", sha256, 3.0, 0, 1))


@pytest.mark.parametrize(
    ("host", "origin", "forwarded", "is_foreign"),
    [
        ("127.0.0.1:8000", "https://music.example", "", False),
        ("music.example", "https://music.example:8443", "", False),
        ("127.0.0.1:8000", "https://radio.example", "radio.example", False),
        ("music.example", "https://elsewhere.example", "", True),
        ("music.example", "null", "", True),
        ("music.example", "https://music.example.elsewhere.example", "", True),
    ],
)
def test_whose_page_may_open_a_microphone(host, origin, forwarded, is_foreign):
    app: Any = None
    guard = Guard(app, settings=Settings(hosts=("127.0.0.1", "music.example")), metrics=Metrics())
    headers = {"host": host, "origin": origin} | (
        {"x-forwarded-host": forwarded} if forwarded else {}
    )
    assert guard._is_cross_site(Headers(headers)) is is_foreign


def test_tracks_of_one_name_are_told_apart():
    texts = []
    for number, artist in ((3, "Somebody"), (9, "")):
        found = Match(
            "01 Intro", f"/{number}", 0.0, 0.9, 1.0, 0.0, 3.0, 1.0, number, "", artist, ""
        )
        texts.append(known_as(found))
    assert texts == ["id 3, Somebody", "id 9"]

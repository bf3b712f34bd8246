"""`confp reindex`: another model's fingerprints, beside the old ones until the swap; a real
(untrained) model on real files.
"""

import json
import pathlib
import shutil

import numpy as np
import pytest
import soundfile

from confp_jax.database import ModelId, NewTrack, OtherModelError
from confp_jax.database.compact import compact_shards
from confp_jax.database.records import UPLOADED
from confp_jax.database.stage import begin_staging, stage
from confp_jax.database.verify import verify
from confp_jax.fingerprint.embedder import load_encoder
from confp_jax.library import reindex as reindex_module
from confp_jax.library.add import add_paths, add_track, update_tracks
from confp_jax.library.library import Library
from confp_jax.library.open import CALIBRATION_SETTING
from confp_jax.library.reindex import reindex
from confp_jax.library.searcher import Searcher


@pytest.fixture(scope="module")
def other(other_checkpoint):
    return load_encoder(other_checkpoint)


def check(database, encoder, num_tracks=4):
    assert database.model_id == ModelId(encoder.name, encoder.weights_hash, 0.3)
    snapshot = database.snapshot()
    assert len(snapshot.tracks) == num_tracks
    for track in snapshot.tracks:
        expected = encoder.fingerprint(soundfile.read(track.path, dtype="float32")[0]).vectors
        found = snapshot.vectors[track.first_row : track.first_row + track.num_rows]
        np.testing.assert_allclose(found, expected, atol=2**-11)
    assert verify(database) == []
    assert len(list((database.folder / "vectors").iterdir())) == 1


def test_the_old_vectors_serve_until_the_swap(confp, db, embedder, other):
    check(db, embedder)
    ids = {t.path: t.id for t in db.tracks()}
    status, done, err = confp("reindex", db.folder, "--model", other.name, "--json")
    assert (status, done["swapped"], len(done["tracks"]), err.strip()) == (0, True, 4, "")
    check(db, other)
    assert {t.path: t.id for t in db.tracks()} == ids
    status, _, err = confp("reindex", db.folder, "--model", other.name)
    assert status == 1 and "already" in err


def test_interrupted_it_goes_on(db, embedder, other, monkeypatch):
    def interrupt(_result, _total):
        seen.append(1)
        if len(seen) == 2:
            raise KeyboardInterrupt

    seen: list[int] = []
    monkeypatch.setattr(reindex_module, "_COMMIT_SECONDS", 1.0)
    with pytest.raises(KeyboardInterrupt):
        reindex(db, other, report=interrupt)
    assert db.model_id.weights_hash == embedder.weights_hash
    assert len(db.snapshot().tracks) == 4 and verify(db) == []
    assert len(reindex(db, other)) == 3  # one was done
    with db.writing():
        compact_shards(db)
    check(db, other)


def test_another_model_in_between_starts_over(db, other):
    with db.writing():
        begin_staging(db, ModelId("third", "333", 0.3))
        stage(db, [(1, np.ones((3, 7), np.float32))])
        db.remove([])
    assert len(reindex(db, other)) == 4
    check(db, other)


def test_nothing_is_swapped_while_a_file_is_missing(confp, db, embedder, other, tagged):
    (tagged / "two.flac").rename(tagged / "kept")
    shutil.copy(tagged / "one.flac", tagged / "Björk.flac")
    status, done, err = confp("reindex", db.folder, "--model", other.name, "--json")
    assert (status, done["swapped"]) == (1, False)
    assert "two.flac: no such file" in err and "has changed since it was added" in err
    assert db.model_id.weights_hash == embedder.weights_hash and len(db.snapshot().tracks) == 4
    (tagged / "kept").rename(tagged / "two.flac")
    status, done, _ = confp("reindex", db.folder, "--model", other.name, "--json", "--prune")
    assert (status, done["swapped"], len(done["tracks"])) == (0, True, 2)
    assert sorted(t.name for t in db.tracks()) == ["one", "one", "two"]
    assert verify(db) == []


def test_one_that_has_it_open_neither_writes_to_it_nor_asks_it(db, embedder, other, tagged):
    """A program that runs on through `confp reindex` would mix two models' fingerprints, and find
    nothing.
    """
    library = Library(db.folder)
    reindex(db, other)
    again = "the database is of .* now, not of .*; open it again"
    for use in (
        lambda: add_paths(db, embedder, [tagged]),
        lambda: update_tracks(db, embedder),
        lambda: Searcher(db, embedder),
        lambda: library.add(tagged),
        library.refresh,
    ):
        with pytest.raises(OtherModelError, match=again):
            use()
    assert Library(db.folder).identify_file(tagged / "two.flac").matches[0].track == "two"
    check(db, other)


def test_what_cannot_come_along_is_told(confp, db, embedder, other):
    """An uploaded track has no file; a threshold that was measured with the old model is none of
    the new one's.
    """
    rows = np.eye(3, db.snapshot().vectors.shape[1], dtype=np.float32)
    add_track(db, NewTrack("jingle", f"{UPLOADED}1", "1" * 64, 3.6, rows), model=db.model_id)
    db.set_setting(CALIBRATION_SETTING, json.dumps({"identity": embedder.weights_hash}))
    status, _, err = confp("reindex", db.folder, "--model", other.name)
    assert (
        status == 1
        and "jingle was uploaded, so there is no file to read again; upload it again after --prune"
        in err
    )
    status, out, err = confp("reindex", db.folder, "--model", other.name, "--prune", "--json")
    assert status == 0 and out["swapped"] and f"`confp calibrate {db.folder}`" in err
    check(db, other)


def test_to_a_model_of_signs_and_back(db, embedder):
    """The precision follows the model: an hour of `edge2` in float16 would be 15 MB."""
    signs = load_encoder("edge2")
    reindex(db, signs)
    assert db.precision == "binary" and verify(db) == []
    vectors = np.asarray(db.snapshot().vectors)
    assert vectors.shape[1] == 640
    np.testing.assert_allclose(np.abs(vectors), 640**-0.5, rtol=1e-6)
    path = db.tracks()[0].path
    answer = Searcher(db, signs).identify_file(pathlib.Path(path))
    assert answer.matches[0].path == path
    reindex(db, embedder)
    assert db.precision == "float16"
    check(db, embedder)

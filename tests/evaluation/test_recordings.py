"""Real recordings: excerpts of the examples stand for them; their truth is known."""

import csv
import dataclasses
import pathlib
import shutil

import numpy as np
import pytest
import soundfile
from rich.console import Console
from unit_vectors import unit_rows

from confp_jax.audio.decode import decode
from confp_jax.data.records import DatasetError
from confp_jax.evaluation.measure.listening import AFTER_S, measure_listening
from confp_jax.evaluation.measure.recordings import (
    RecordingRow,
    measure_recordings,
    pieces,
    read_recordings,
    recordings_id,
    reference_files,
    with_references,
)
from confp_jax.evaluation.report.recording_tables import listening_table, recording_table
from confp_jax.fingerprint.embedder import load_encoder
from confp_jax.library.searcher import ReferenceSearcher
from confp_jax.matching.decision import Decision, uncalibrated
from confp_jax.matching.searchable import make_reference

RATE_HZ = 16_000
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def folder(music_dir, tmp_path_factory) -> pathlib.Path:
    """Three excerpts of 6 s of two tracks."""
    root = tmp_path_factory.mktemp("recordings")
    (root / "references").mkdir()
    rows = []
    for number, path in enumerate(sorted(music_dir.glob("*.mp3"))[:2]):
        (root / "references" / path.name).write_bytes(path.read_bytes())
        samples = decode(path, sample_rate_hz=RATE_HZ).samples
        for start_s in (0.0, 2.4)[: 2 - number]:
            name = f"{number}-{start_s}.wav"
            soundfile.write(root / name, samples[int(start_s * RATE_HZ) :][: 6 * RATE_HZ], RATE_HZ)
            rows.append((name, f"references/{path.name}", start_s))
    with open(root / "recordings.csv", "w", newline="") as file:
        csv.writer(file).writerows([("query", "reference", "offset_s"), *rows])
    return root


def test_excerpts_are_found_where_they_lie(folder, checkpoint):
    embedder = load_encoder(checkpoint)
    recordings = read_recordings(folder)
    segment_s = embedder.config.audio.segment_s
    noise = unit_rows(0, 40, embedder.config.encoder.embedding_dim)
    others = make_reference([("other", noise)], hop_s=0.3, segment_s=segment_s)
    reference = with_references(embedder, recordings, others, QUIET)
    assert [track.name for track in reference.snapshot.tracks][
        -1
    ] == "other" and reference.num_tracks == 3
    six, three = measure_recordings(
        embedder, uncalibrated(), recordings, reference, QUIET, lengths_s=(6.0, 3.0)
    )
    assert (len(six.right), len(three.right)) == (3, 6)
    assert six.right.all() and six.placed.all() and three.right.all()
    row = six.row("tiny", 0.001)
    assert (row.right, row.placed, row.num_pieces) == (1.0, 1.0, 3) and row.accepted is not None
    text = recording_table([row, RecordingRow("peer", 3.0, 0, trouble="not installed")]).markdown()
    assert "| tiny | 6 | 3 | 100.0 | 100.0 |" in text and "not installed" in text


def test_all_music_beside_the_references_is_indexed(folder, tmp_path):
    """But no query, and no recording that lies there too."""
    root = shutil.copytree(folder, tmp_path / "set")
    recordings = read_recordings(root)
    before = recordings_id(recordings)
    assert reference_files(recordings) == sorted({one.reference for one in recordings})
    soundfile.write(root / "references" / "another.wav", np.ones(8_000) * 0.1, RATE_HZ)
    (root / "references" / "cover.jpg").write_bytes(b"jpeg")
    names = [file.name for file in reference_files(recordings)]
    assert len(names) == 3 and "another.wav" in names
    assert recordings_id(recordings) != before, "it is another measurement"
    moved = [
        dataclasses.replace(one, reference=root / "queries.wav", query=one.query)
        for one in recordings
    ]
    soundfile.write(root / "queries.wav", np.ones(8_000) * 0.1, RATE_HZ)
    found = reference_files(moved)
    assert root / "queries.wav" in found and not {one.query for one in recordings} & set(found)


def test_how_soon_excerpts_are_answered(folder, checkpoint):
    """A decision that is sure of all: answered at the first look, and falsely where only other
    music is.
    """
    embedder = load_encoder(checkpoint)
    recordings = read_recordings(folder)
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(40, embedder.config.encoder.embedding_dim)).astype(np.float32)
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    segment_s = embedder.config.audio.segment_s
    others = make_reference([("other", noise)], hop_s=0.3, segment_s=segment_s)
    cells = (2, 1, 1, 1)
    weights = np.tile(np.array([20.0, 0.0, 0.0, 0.0]), cells)
    decision = Decision((3.0,), (1,), weights, np.tile(np.array([0.0, 1.0]), cells))
    both, alone = (
        ReferenceSearcher(reference, embedder, decision)
        for reference in (with_references(embedder, recordings, others, QUIET), others)
    )
    rows = measure_listening(both, alone, recordings, QUIET)
    assert [(row.way, row.after_s) for row in rows[:4]] == [
        ("clip", after_s) for after_s in AFTER_S
    ]
    assert {(row.right, row.wrong, row.false_alarms) for row in rows[:4]} == {(1.0, 0.0, 1.0)}
    monitored = rows[4:]
    assert {row.way for row in monitored} == {"monitor"}
    assert [row.right for row in monitored] == sorted(row.right for row in monitored)
    assert monitored[-1].right == 1.0
    assert "| clip | 3 | 3 | 100.0 | 0.0 | 100.0 |" in listening_table(rows).markdown()


def test_pieces_follow_each_other(folder):
    recording = read_recordings(folder)[1]
    found = pieces(recording, 2.0, RATE_HZ)
    assert [offset_s for offset_s, _ in found] == pytest.approx([2.4, 4.4, 6.4])
    whole = decode(recording.query, sample_rate_hz=RATE_HZ).samples
    np.testing.assert_array_equal(
        np.concatenate([samples for _, samples in found]), whole[: 6 * RATE_HZ]
    )


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            "query,reference\na.wav,b.wav\n",
            "expected a line for each recording under the columns query, reference, offset_s",
        ),
        ("query,reference,offset_s\n", "expected a line"),
        (
            "query,reference,offset_s\nno.wav,no.wav,1\n",
            r"line 2: .*no\.wav is no file in this folder",
        ),
        ("query,reference,offset_s\n../x.wav,../x.wav,1\n", "line 2: .* is no file in this folder"),
        ("query,reference,offset_s\na.wav,a.wav,soon\n", "line 2: offset_s='soon' is no number"),
    ],
)
def test_a_wrong_table_is_refused_by_line(tmp_path, lines, message):
    root = tmp_path / "set"
    root.mkdir()
    for name in ("set/a.wav", "x.wav"):
        soundfile.write(tmp_path / name, np.zeros(100), RATE_HZ)
    (root / "recordings.csv").write_text(lines)
    with pytest.raises(DatasetError, match=message):
        read_recordings(root)


def test_no_table(tmp_path):
    with pytest.raises(DatasetError, match=r"recordings\.csv cannot be read"):
        read_recordings(tmp_path)


def test_another_label_is_another_set(folder, tmp_path):
    recordings = read_recordings(folder)
    assert (
        recordings_id(recordings)
        == recordings_id(read_recordings(folder))
        != recordings_id(recordings[:2])
    )

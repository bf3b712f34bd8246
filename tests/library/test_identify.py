"""Adding and identifying from Python: commits, interruptions, the model's stamp.

Files of every kind: tests/cli.
"""

import pathlib

import numpy as np
import pytest
import soundfile

from confp_jax.audio.decode import decode
from confp_jax.database import Database, DatabaseError, ModelId
from confp_jax.fingerprint.embedder import Embedder
from confp_jax.fingerprint.fingerprints import AudioError
from confp_jax.library import open as opening
from confp_jax.library.add import add_paths
from confp_jax.library.open import open_database, open_or_create
from confp_jax.library.searcher import Searcher, identify_sources
from confp_jax.matching.decision import Decision

EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "examples" / "music"
RATE = 16_000


def test_queries_are_answered_one_by_one_in_order(database, embedder, files):
    add_paths(database, embedder, files)
    answers = identify_sources(
        Searcher(database, embedder), [str(files[3]), "missing", str(files[1])]
    )
    first = next(answers)
    assert (first.matches[0].track, first.matches[0].offset_s) == (
        "3",
        pytest.approx(0.0, abs=0.6),
    )  # untrained: roughly
    assert 0.99 < first.matches[0].score <= 1.0
    rest = list(answers)
    assert [a.query for a in rest] == ["missing", str(files[1])]
    assert rest[0].error and rest[1].matches[0].track == "1"


def decided(embedder, folder, *, bias: float) -> Embedder:
    """The same encoder with a calibration in which every logit is the bias, and 1 % of unknown
    queries exceed 3.
    """
    weights = np.zeros((2, 1, 1, 4))
    weights[..., 0] = bias
    tails = np.tile([3.0 - np.log(5), 1.0], (2, 1, 1, 1))
    (folder / "decision.json").write_text(
        Decision((3.0,), (1,), weights, tails, weights_hash=embedder.weights_hash).to_json()
    )
    return Embedder(embedder.name, embedder.engine, folder=folder)


@pytest.mark.parametrize(("rate", "bias", "verdict"), [
    (0.01, 3.1, "match"), (0.01, 2.9, "unknown"), (0.001, 3.1, "unknown"), (0.001, 5.4, "match"),
    (0.001, 5.2, "unknown")
])  # fmt: skip
def test_the_verdict_keeps_the_rate_of_false_alarms(
    database, embedder, files, tmp_path, rate, bias, verdict
):
    add_paths(database, embedder, files)
    model = decided(embedder, tmp_path, bias=bias)
    answer = Searcher(database, model, false_alarm_rate=rate).identify_file(files[2])
    assert (answer.verdict, answer.num_accepted) == (verdict, int(verdict == "match"))
    assert answer.matches[0].track == "2"
    assert answer.matches[0].confidence == pytest.approx(1 / (1 + np.exp(-bias)), abs=1e-3)


def test_a_model_without_a_calibration_says_so(database, embedder, files):
    add_paths(database, embedder, files)
    assert any(
        "no calibration" in note
        for note in Searcher(database, embedder).identify_file(files[0]).notes
    )


@pytest.mark.parametrize("rate", [0.0, 0.05, -1.0, float("nan")])
def test_a_rate_that_is_none(database, embedder, rate):
    with pytest.raises(ValueError, match="false_alarm_rate"):
        Searcher(database, embedder, false_alarm_rate=rate)


@pytest.fixture(scope="module")
def edge():
    """The model that ships: what it says must be right."""
    from confp_jax.fingerprint.embedder import load_encoder

    return load_encoder("edge")


@pytest.fixture(scope="module")
def two_tracks(edge, tmp_path_factory) -> tuple[Searcher, dict[str, np.ndarray]]:
    """Two real tracks in a database of the shipped model."""
    folder = tmp_path_factory.mktemp("two")
    names = {"a": "jordan-trudgett_battle2", "b": "tim-beek_the-protagonist"}
    tracks = {
        name: decode(EXAMPLES / f"{file}.mp3", sample_rate_hz=RATE).samples
        for name, file in names.items()
    }
    for name, samples in tracks.items():
        soundfile.write(folder / f"{name}.wav", samples, RATE)
    database = Database.create(folder / "db", ModelId(edge.name, edge.weights_hash, 0.3))
    add_paths(database, edge, [folder / "a.wav", folder / "b.wav"])
    return Searcher(database, edge), tracks


@pytest.mark.parametrize("begin_s", [1.234, 7.35, 20.1])
@pytest.mark.parametrize("length_s", [3.0, 7.0])
def test_offsets_of_a_cut_between_the_fingerprints(two_tracks, begin_s, length_s):
    searcher, tracks = two_tracks
    cut = tracks["b"][round(begin_s * RATE) : round((begin_s + length_s) * RATE)]
    answer = searcher.identify_blocks([cut], query="cut")
    found = answer.matches[0]
    assert (answer.verdict, found.track, found.query_offset_s) == ("match", "b", 0.0)
    assert found.offset_s == pytest.approx(begin_s, abs=0.05)
    assert found.tempo == pytest.approx(1.0, abs=0.01)
    assert length_s - 0.3 < found.length_s <= length_s


def test_two_tracks_in_one_recording_are_two_spans(two_tracks):
    """Each at its place in the recording and in the track; the unknown music between them and the
    silence are not matched.
    """
    searcher, tracks = two_tracks
    unknown = decode(EXAMPLES / "karissa-hobbs_lets-go-fishin.mp3", sample_rate_hz=RATE).samples[
        : 12 * RATE
    ]
    silence = np.zeros(10 * RATE, np.float32)
    mix = np.concatenate(
        [tracks["a"][5 * RATE : 20 * RATE], unknown, tracks["b"][8 * RATE : 26 * RATE], silence]
    )
    answer = searcher.identify_blocks(np.array_split(mix, 23), query="mix")
    spans = sorted(answer.matches[: answer.num_accepted], key=lambda m: m.query_offset_s)
    assert [m.track for m in spans] == ["a", "b"]
    for span, begin_s, end_s, track_s in zip(spans, (0, 27), (15, 45), (5, 8), strict=True):
        assert span.query_offset_s == pytest.approx(begin_s, abs=1.0)
        assert span.query_offset_s + span.length_s == pytest.approx(end_s, abs=1.0)
        assert span.offset_s - span.query_offset_s == pytest.approx(track_s - begin_s, abs=0.1)


def test_a_nan_in_a_stream_and_nothing_at_all(database, embedder, files):
    add_paths(database, embedder, files)
    searcher = Searcher(database, embedder)
    with pytest.raises(AudioError, match="no audio samples"):
        searcher.identify_blocks([], query="nothing")
    with pytest.raises(AudioError, match="silent"):
        searcher.identify_blocks([np.zeros(40 * RATE, np.float32)], query="silence")


def test_another_process_makes_the_database_first(checkpoint, tmp_path, monkeypatch):
    """While this one loads the model: what is there then is opened; half made, this one is told
    so.
    """
    load = opening.load_encoder

    def slowly(model):
        embedder = load(model)
        if not (tmp_path / "db").exists():
            other = Database.create(
                tmp_path / "db", ModelId(embedder.name, embedder.weights_hash, 0.3)
            )
            (other.folder / "vectors" / "000001.npy").write_bytes(b"its first track")
        return embedder

    monkeypatch.setattr(opening, "load_encoder", slowly)
    assert open_or_create(tmp_path / "db", str(checkpoint))[0].tracks() == []
    with pytest.raises(DatabaseError, match="another process has just made it; try again"):
        Database.create(tmp_path / "db", ModelId("edge", "0", 0.3))


def test_a_database_opens_with_its_model_and_no_other(checkpoint, embedder, tmp_path):
    database, found = open_or_create(tmp_path / "db", str(checkpoint))
    assert (
        database.model_id == ModelId(str(checkpoint), embedder.weights_hash, 0.3)
        and found.weights_hash == embedder.weights_hash
    )
    for model in (None, str(checkpoint)):
        assert open_database(tmp_path / "db", model)[1].weights_hash == embedder.weights_hash
        assert open_or_create(tmp_path / "db", model)[0].model_id == database.model_id
    with database.connect() as connection:
        connection.execute("UPDATE settings SET value = 'fedcba' WHERE key = 'identity'")
    for model in (None, str(checkpoint)):
        with pytest.raises(DatabaseError, match=r"made with model .*fedcba.* cannot be compared"):
            open_database(tmp_path / "db", model)

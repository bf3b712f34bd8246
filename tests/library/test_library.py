"""The Python API, monitoring, comparing and calibrating with the model that ships, on real
music.
"""

import dataclasses
import os
import pathlib
import select
import shutil
import signal
import threading

import numpy as np
import pytest
import soundfile
from unit_vectors import unit_rows

import confp_jax
from confp_jax import index as indexes
from confp_jax.audio.decode import DecodeError, decode
from confp_jax.database import Database, DatabaseError, ModelId, NewTrack
from confp_jax.fingerprint.embedder import load_encoder
from confp_jax.fingerprint.fingerprints import AudioError
from confp_jax.index import on_disk
from confp_jax.library import maintenance
from confp_jax.library.calibrate import calibrate_database
from confp_jax.library.compare import compare_files
from confp_jax.library.monitor import monitor
from confp_jax.library.open import database_decision, open_database, open_reference
from confp_jax.library.searcher import Searcher
from confp_jax.matching.decision import load_decision
from confp_jax.matching.shared_sections import shared_sections
from confp_jax.model import forked

EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "examples" / "music"
NAMES = (
    "jordan-trudgett_battle2",
    "tim-beek_the-protagonist",
    "karissa-hobbs_lets-go-fishin",
    "david-reeves_david03",
)
RATE = 16_000


@pytest.fixture(scope="module")
def tracks() -> list[np.ndarray]:
    return [decode(EXAMPLES / f"{name}.mp3", sample_rate_hz=RATE).samples for name in NAMES]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    """A database of the first three tracks, made by the API."""
    folder = tmp_path_factory.mktemp("library") / "music.db"
    library = confp_jax.open(folder)
    added = library.add([EXAMPLES / f"{name}.mp3" for name in NAMES[:3]])
    assert [result.status for result in added] == ["added"] * 3
    library.settle()
    return folder


@pytest.fixture(scope="module")
def library(folder) -> confp_jax.Library:
    return confp_jax.open(folder)


class TestLibrary:
    def test_samples_and_files(self, library, tracks, tmp_path):
        cut = tracks[1][5 * RATE : 9 * RATE]
        stereo = np.round(np.stack([cut, cut], axis=1) * 20_000).astype(np.int16)
        answer = library.identify(stereo, RATE)
        assert (answer.verdict, answer.matches[0].track) == ("match", NAMES[1])
        assert answer.matches[0].offset_s == pytest.approx(5.0, abs=0.05)
        soundfile.write(tmp_path / "cut.flac", cut, RATE)
        assert library.identify_file(tmp_path / "cut.flac").matches[0].offset_s == pytest.approx(
            5.0, abs=0.05
        )
        with pytest.raises(dataclasses.FrozenInstanceError):
            answer.verdict = "unknown"

    def test_another_rate(self, library, tracks):
        import soxr

        answer = library.identify(soxr.resample(tracks[0][: 6 * RATE], RATE, 44_100), 44_100)
        assert (answer.verdict, answer.matches[0].track) == ("match", NAMES[0])

    def test_an_unknown_query(self, library, tracks):
        answer = library.identify(tracks[3][2 * RATE : 12 * RATE], RATE)
        assert (answer.verdict, answer.num_accepted) == ("unknown", 0)
        assert answer.matches and answer.matches[0].confidence < 0.9

    def test_what_cannot_be_identified(self, library, tmp_path):
        with pytest.raises(AudioError, match="too short"):
            library.identify(np.ones(100, np.float32), RATE)
        with pytest.raises(AudioError, match="silent"):
            library.identify(np.zeros(4 * RATE, np.float32), RATE)
        with pytest.raises(DecodeError, match="NaN"):
            library.identify(np.full(4 * RATE, np.nan), RATE)
        assert "no such file" in library.identify_file(tmp_path / "missing").error

    def test_an_empty_database_answers(self, tmp_path, tracks):
        empty = confp_jax.open(tmp_path / "empty.db")
        answer = empty.identify(tracks[0][: 5 * RATE], RATE)
        assert (answer.verdict, answer.matches, empty.tracks()) == ("unknown", [], [])

    def test_many_threads_while_one_adds(self, folder, tracks, tmp_path):
        """Every answer is that of a single thread; what was added is seen at once."""
        library = confp_jax.open(shutil.copytree(folder, tmp_path / "copy.db"))
        cuts = [tracks[i % 3][(2 + i) * RATE : (6 + i) * RATE] for i in range(6)]
        expected = [library.identify(cut, RATE).matches[0] for cut in cuts]
        wrong: list[object] = []

        def ask(number: int) -> None:
            for turn in range(4):
                i = (number + turn) % 6
                found = library.identify(cuts[i], RATE).matches[0]
                # The rows of the track that is added change which hits vote, and so where the
                # search for the place begins;
                # a query's fingerprints lie 75 ms apart.
                if (
                    found.track != expected[i].track
                    or abs(found.offset_s - expected[i].offset_s) > 0.08
                ):
                    wrong.append((found, expected[i]))

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
        threads.append(threading.Thread(target=lambda: library.add(EXAMPLES / f"{NAMES[3]}.mp3")))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert library.identify(tracks[3][2 * RATE : 6 * RATE], RATE).matches[0].track == NAMES[3]
        assert len(library.tracks()) == 4

    def test_the_index_is_built_in_the_background(self, folder, tracks, tmp_path, monkeypatch):
        """What was added is found at once, exactly; then by the new index as well."""
        library = confp_jax.open(shutil.copytree(folder, tmp_path / "copy.db"))
        monkeypatch.setattr(indexes, "BRUTE_FORCE_ROWS", 100)
        begin = threading.Event()
        go_on = threading.Event()
        write = on_disk.write_generation

        def slow_write(*arguments):
            begin.set()
            assert go_on.wait(60)
            return write(*arguments)

        monkeypatch.setattr(on_disk, "write_generation", slow_write)
        library.add(EXAMPLES / f"{NAMES[3]}.mp3")
        cut = tracks[3][2 * RATE : 6 * RATE]
        assert begin.wait(60)
        assert library.identify(cut, RATE).matches[0].track == NAMES[3]
        # Nobody waits for the build, or is told that another process is writing.
        assert [result.name for result in library.remove(NAMES[0])] == [NAMES[0]]
        maintenance.remove(Database(tmp_path / "copy.db"), [NAMES[1]])
        go_on.set()
        library.settle()
        assert library.identify(cut, RATE).matches[0].track == NAMES[3]
        database = Database(tmp_path / "copy.db")
        assert on_disk.stale_share(database, database.snapshot()) == 0

    def test_what_another_process_added_is_seen_after_a_refresh(self, folder, tmp_path):
        copy = shutil.copytree(folder, tmp_path / "copy.db")
        first = confp_jax.open(copy)
        second = confp_jax.open(copy)
        first.add(str(EXAMPLES / f"{NAMES[3]}.mp3"))
        assert len(second.tracks()) == 3
        second.refresh()
        assert len(second.tracks()) == 4

    def test_remove_by_id_path_and_name(self, folder, tracks, tmp_path):
        library = confp_jax.open(shutil.copytree(folder, tmp_path / "copy.db"))
        cut = tracks[0][2 * RATE : 6 * RATE]
        found = library.identify(cut, RATE).matches[0]
        removed = library.remove([found.id, EXAMPLES / f"{NAMES[1]}.mp3", "nobody", 10**9])
        assert [result.name for result in removed[:2]] == list(NAMES[:2])
        assert [result.id for result in removed[2:]] == [0, 0]
        assert all("no" in result.error for result in removed[2:])
        assert library.identify(cut, RATE).matches[0].track == NAMES[2]
        assert [track.name for track in library.tracks()] == [NAMES[2]]

    def test_update_and_the_ids_of_what_was_added(self, tmp_path):
        music = tmp_path / "music"
        music.mkdir()
        rng = np.random.default_rng(0)
        soundfile.write(music / "a.wav", 0.1 * rng.standard_normal(3 * RATE), RATE)
        soundfile.write(music / "b.wav", 0.1 * rng.standard_normal(3 * RATE), RATE)
        library = confp_jax.open(tmp_path / "new.db")
        ids = [added.id for added in library.add(music)]
        assert sorted(ids) == sorted(track.id for track in library.tracks())
        (music / "b.wav").unlink()
        assert [(r.status, r.id) for r in library.update()] == [
            ("unchanged", ids[0]),
            ("vanished", ids[1]),
        ]
        assert len(library.tracks()) == 2
        library.update(prune=True, force=True)
        assert [track.id for track in library.tracks()] == ids[:1]

    def test_after_a_fork_nothing_hangs(self, library, monkeypatch):
        """A forked worker (it has none of JAX's threads) gets an error that says what to do."""
        monkeypatch.setattr(forked.os, "getpid", lambda: -1)
        for call in (
            lambda: library.identify(np.ones(4 * RATE, np.float32), RATE),
            lambda: library.add("x.wav"),
            lambda: library.remove("x"),
            library.update,
            library.refresh,
            lambda: confp_jax.load_encoder("edge"),
        ):
            with pytest.raises(confp_jax.ForkedError, match="spawn"):
                call()
        assert library.tracks()

    @pytest.mark.filterwarnings(r"ignore:os.fork\(\) was called:RuntimeWarning")  # JAX's advice
    def test_a_process_that_was_really_forked_is_told(self, library):
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            try:
                library.identify(np.ones(4 * RATE, np.float32), RATE)
            except confp_jax.ForkedError as error:
                os.write(writing, str(error).encode())
            finally:
                os._exit(0)
        os.close(writing)
        told = select.select([reading], [], [], 60)[0]
        if not told:
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        said = os.read(reading, 4096) if told else b""
        os.close(reading)
        assert b"spawn" in said and f"forked from process {os.getpid()}".encode() in said

    def test_what_it_raises_can_be_caught(self):
        for name in confp_jax.__all__:
            assert getattr(confp_jax, name)
        assert confp_jax.DatabaseError is DatabaseError
        assert confp_jax.AudioError is AudioError
        assert confp_jax.DecodeError is DecodeError


@pytest.fixture(scope="module")
def edge():
    return load_encoder("edge")


class TestMonitor:
    def test_events_come_while_it_plays(self, folder, tracks):
        """A stream in small blocks: each track is told soon after it begins and again when it is
        over.
        """
        unknown = tracks[3][: 14 * RATE]
        silence = np.zeros(8 * RATE, np.float32)
        stream = np.concatenate(
            [
                silence,
                tracks[0][: 20 * RATE],
                unknown,
                tracks[2][3 * RATE : 25 * RATE],
                silence,
                silence,
            ]
        )
        given_s = 0.0

        def blocks():
            nonlocal given_s
            for first in range(0, len(stream), 4_000):
                given_s = min(first + 4_000, len(stream)) / RATE
                yield stream[first : first + 4_000]

        events = [
            (event, given_s) for event in monitor(Searcher(*open_database(folder, None)), blocks())
        ]
        matches = [event.found for event, _ in events if event.event == "match"]
        assert [found.track for found in matches] == [NAMES[0], NAMES[2]]
        for found, begin_s, end_s, track_s in zip(matches, (8, 42), (28, 64), (0, 3), strict=True):
            assert found.query_offset_s == pytest.approx(begin_s, abs=1.5)
            assert found.query_offset_s + found.length_s == pytest.approx(end_s, abs=1.5)
            assert found.offset_s - found.query_offset_s == pytest.approx(
                track_s - begin_s, abs=0.2
            )
        playing = {event.found.track: at_s for event, at_s in events if event.event == "playing"}
        assert playing[NAMES[0]] < 8 + 20 and playing[NAMES[2]] < 42 + 20
        assert all(
            at_s - (event.found.query_offset_s + event.found.length_s) < 30
            for event, at_s in events
        )

    def test_silence_and_noise_are_nothing(self, folder):
        noise = np.random.default_rng(0).normal(size=30 * RATE).astype(np.float32) * 0.1
        hum = 1e-5 * noise
        searcher = Searcher(*open_database(folder, None))
        assert list(monitor(searcher, [noise, np.zeros(20 * RATE, np.float32), hum])) == []


class TestCompare:
    def test_common_sections(self, tracks, tmp_path):
        """The second holds two sections of the first, in the other order."""
        soundfile.write(tmp_path / "a.wav", tracks[0], RATE)
        mixed = np.concatenate(
            [
                tracks[0][18 * RATE : 29 * RATE],
                tracks[1][: 8 * RATE],
                tracks[0][2 * RATE : 14 * RATE],
            ]
        )
        soundfile.write(tmp_path / "b.wav", mixed, RATE)
        found = compare_files(tmp_path / "b.wav", tmp_path / "a.wav", None)
        # The music also resembles itself a few bars on, which is told as well.
        *repeats, one, other = sorted(found, key=lambda section: section.length_s)
        sections = sorted((one, other), key=lambda section: section.a_s)
        assert all(repeat.score < min(one.score, other.score) for repeat in repeats)
        for section, (a_s, b_s, length_s) in zip(sections, ((0, 18, 11), (19, 2, 12)), strict=True):
            assert section.a_s == pytest.approx(a_s, abs=1.2) and section.length_s == pytest.approx(
                length_s, abs=2.0
            )
            assert section.b_s - section.a_s == pytest.approx(b_s - a_s, abs=0.2)
        soundfile.write(tmp_path / "c.wav", tracks[2], RATE)
        assert compare_files(tmp_path / "c.wav", tmp_path / "a.wav", None) == []

    def test_two_that_are_shorter_than_a_window(self, tracks, tmp_path):
        soundfile.write(tmp_path / "a.wav", tracks[0][10 * RATE : 12 * RATE], RATE)
        soundfile.write(tmp_path / "b.wav", tracks[0][round(9.8 * RATE) : round(12.3 * RATE)], RATE)
        (section,) = compare_files(tmp_path / "a.wav", tmp_path / "b.wav", None)
        assert section.a_s == 0 and 1.7 <= section.length_s <= 2.01, (
            "what is heard ends with a whole segment"
        )
        assert section.b_s == pytest.approx(0.2, abs=0.2)

    def test_one_that_is_too_short_is_named(self, tracks, tmp_path):
        soundfile.write(tmp_path / "short.wav", tracks[0][: RATE // 2], RATE)
        with pytest.raises(AudioError, match=r"short\.wav.*too short"):
            compare_files(tmp_path / "short.wav", EXAMPLES / f"{NAMES[0]}.mp3", None)


@pytest.fixture
def synthetic(edge, tmp_path) -> Database:
    """30 tracks of random rows; track 7 holds 20 s of track 3."""
    rng = np.random.default_rng(0)
    parts = [unit_rows(rng, 80, 128) for _ in range(30)]
    parts[7][5:65] = parts[3][15:75]
    database = Database.create(tmp_path / "db", ModelId(edge.name, edge.weights_hash, 0.3))
    with database.writing():
        database.add(
            [NewTrack(f"t{i}", f"/t{i}", str(i), 27.0, part) for i, part in enumerate(parts)]
        )
    return database


def test_tracks_that_share_a_section(synthetic, edge):
    reference = open_reference(synthetic, edge)
    decision = load_decision(edge.folder, edge.weights_hash)
    (section,) = shared_sections(reference, decision)
    assert {section.track, section.other} == {3, 7}
    begin_s = {section.track: section.track_s, section.other: section.other_s}
    assert begin_s[3] - begin_s[7] == pytest.approx(10 * 0.3, abs=0.1)
    assert section.length_s == pytest.approx(60 * 0.3 + 2.7, abs=2.5)
    assert shared_sections(reference, decision, shortest_s=25.0) == []


def test_calibration_adapts_the_tail_and_is_stored(synthetic, edge):
    """Unknown queries of random rows get nowhere near as far as music's: the tail moves down, and
    twins do not count.
    """
    found = calibrate_database(synthetic, edge, num_excerpts=60)
    assert found.num_same > 0 and found.num_tracks == 30
    before = load_decision(edge.folder, edge.weights_hash)
    after = database_decision(synthetic, edge)
    for length_s, tail in zip(found.lengths_s, found.tails, strict=True):
        np.testing.assert_allclose(after.tail(length_s=length_s, num_tracks=30), tail, atol=1e-6)
        assert tail[0] < before.tail(length_s=length_s, num_tracks=30)[0]
    np.testing.assert_array_equal(after.weights, before.weights)


def test_calibration_needs_tracks(edge, tmp_path):
    database = Database.create(tmp_path / "db", ModelId(edge.name, edge.weights_hash, 0.3))
    with pytest.raises(DatabaseError, match="holds 0 tracks; calibration needs at least 20"):
        calibrate_database(database, edge)

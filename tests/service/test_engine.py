"""The engine when something fails beneath it: what it serves then, and that it gets over it."""

import asyncio
import pathlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import numpy as np
import pytest
from running_service import start_server

from confp_jax import index as indexes
from confp_jax.database import Database, DatabaseError, ModelId, NewTrack, OtherModelError
from confp_jax.database.stage import begin_staging, stage, swap
from confp_jax.fingerprint.embedder import Embedder
from confp_jax.index import ApproximateIndex, on_disk
from confp_jax.library.maintenance import verify
from confp_jax.library.open import open_database
from confp_jax.matching.decision import DecisionError
from confp_jax.service import engine as engine_module
from confp_jax.service.app import Service
from confp_jax.service.engine import Engine
from confp_jax.service.settings import Settings


@pytest.fixture
def copied(original, tmp_path) -> pathlib.Path:
    return shutil.copytree(original, tmp_path / "music.db")


@pytest.fixture
def engine(copied, monkeypatch) -> Iterator[Engine]:
    monkeypatch.setattr(engine_module, "_WATCH_S", 0.01)
    yield Engine(*open_database(copied, None), settings=Settings())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


def remove_one(folder: pathlib.Path) -> int:
    database = Database(folder)
    number = database.tracks()[0].id
    with database.writing():
        database.remove([number])
    return number


def test_a_view_that_fails_is_tried_again(engine, copied, monkeypatch, caplog):
    """Whatever the error was: one look later the change is seen."""
    failures = [
        DatabaseError("a shard is missing"),
        OSError(5, "input/output error"),
        DecisionError("damaged"),
        KeyError("x"),
    ]
    load = engine.live.load

    def sometimes(**options):
        if failures:
            raise failures.pop()
        return load(**options)

    async def run() -> None:
        monkeypatch.setattr(engine.live, "load", sometimes)
        watching = asyncio.create_task(engine._watch())
        gone = remove_one(copied)
        await until(lambda: gone not in engine.view.tracks)
        watching.cancel()

    asyncio.run(run())
    assert not failures and "what was read before is still served" in caplog.text


def test_what_is_added_is_stored_as_confp_add_stores_it(engine, monkeypatch):
    """Not as a query, which a model with two parts mixes in another proportion."""
    rng = np.random.default_rng(5)
    embedder = engine._embedder
    samples = rng.normal(0, 0.1, 25 * embedder.sample_rate_hz).astype(np.float32)

    def no_query(self, *arguments, **options):
        raise AssertionError("what is stored is no query")

    for name in ("query_many", "query_chunk", "stream"):
        monkeypatch.setattr(Embedder, name, no_query)
    found = asyncio.run(engine.fingerprint(samples))
    np.testing.assert_allclose(found, embedder.fingerprint(samples).vectors, atol=1e-5)


def test_what_cannot_be_prepared_is_told(engine, monkeypatch, caplog):
    def fails(self) -> None:
        raise RuntimeError("no such device")

    monkeypatch.setattr(Embedder, "warm_up", fails)
    application = Service(engine, Settings()).application()

    async def run() -> None:
        client = httpx.AsyncClient(
            transport=httpx.ASGITransport(application), base_url="http://service"
        )
        async with application.router.lifespan_context(application), client:
            await until(lambda: engine.state != "preparing")
            ready = await client.get("/readyz")
            assert ready.status_code == 503 and "restart" in ready.json()["remedy"]
            assert "could not be prepared" in ready.json()["detail"]

    asyncio.run(run())
    assert "no such device" in caplog.text


def test_nobody_waits_for_the_index(engine, copied, monkeypatch):
    """While it is built, tracks are added, removed and found; then it is there, and nothing is
    lost.
    """
    monkeypatch.setattr(indexes, "BRUTE_FORCE_ROWS", 100)
    building = threading.Event()
    may_go_on = threading.Event()
    write_generation = on_disk.write_generation

    def slowly(*arguments):
        building.set()
        assert may_go_on.wait(60)
        return write_generation(*arguments)

    dim = engine.view.searcher.reference.snapshot.vectors.shape[1]

    def new(number: int) -> NewTrack:
        vectors = np.random.default_rng(number).normal(size=(10, dim)).astype(np.float32)
        return NewTrack(f"new {number}", f"upload:{number}", f"{number}" * 64, 6.0, vectors)

    async def run() -> None:
        monkeypatch.setattr(on_disk, "write_generation", slowly)
        ids = {(await engine.add(new(1)))[0].id}
        await until(building.is_set)
        async with asyncio.timeout(30):
            ids |= {(await engine.add(new(number)))[0].id for number in (2, 3)}
            await engine.remove(gone := min(engine.view.tracks))
        assert ids <= set(engine.view.tracks) and gone not in engine.view.tracks
        assert not Database(copied).setting("generation")
        may_go_on.set()
        await until(lambda: bool(Database(copied).setting("generation")))
        await until(lambda: isinstance(engine.view.searcher.reference.index, ApproximateIndex))
        assert ids <= set(engine.view.tracks) and gone not in engine.view.tracks

    asyncio.run(run())
    assert verify(Database(copied))[0] == []
    assert [path.name for path in (copied / "index").iterdir()] == [
        Database(copied).setting("generation")
    ]


def reindexed(folder: pathlib.Path) -> None:
    """What `confp reindex` does, with vectors of no matter what model."""
    database = Database(folder)
    rng = np.random.default_rng(0)
    model_id = ModelId("other", "0123456789abcdef", 0.3)
    dim = database.snapshot().vectors.shape[1]
    with database.writing():
        tracks = begin_staging(database, model_id)
        stage(
            database,
            [(track.id, rng.normal(size=(20, dim)).astype(np.float32)) for track in tracks],
        )
        swap(database, model_id)


def test_another_models_database_is_not_written_to(engine, copied):
    """Also in the second before the change is seen."""
    reindexed(copied)
    old = engine.view

    async def add() -> None:
        vectors = np.ones((3, 8), np.float32)
        with pytest.raises(OtherModelError):
            await engine.add(NewTrack("new", "upload:1", "1" * 64, 3.0, vectors))

    asyncio.run(add())
    assert len(Database(copied).tracks()) == len(old.tracks)
    assert engine.state == "reindexed" and engine.view is old


def test_a_reindex_beside_it_stops_the_answers(copied, clips, tmp_path):
    """The model of the service and the vectors of another one must not be compared: it says so
    until it is restarted.
    """
    server = start_server(copied, tmp_path)
    body = clips["known"].read_bytes()
    try:
        with server.writer() as client:
            assert client.post("/v1/identify", content=body).json()["verdict"] == "match"
            reindexed(copied)
            deadline = time.monotonic() + 30
            while (ready := client.get("/readyz")).status_code == 200:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            asked = [client.post(f"/v1/{route}", content=body) for route in ("identify", "tracks")]
            for refused in (ready, *asked, client.delete("/v1/tracks/1")):
                assert (
                    refused.status_code == 503
                    and refused.headers["content-type"] == "application/problem+json"
                )
                assert (
                    "another model" in refused.json()["detail"]
                    and refused.json()["remedy"] == "restart the service"
                )
    finally:
        server.stop()
    assert "restart the service" in server.log.read_text()


def test_questions_share_the_false_alarms(engine, monkeypatch):
    """`alarm_budget` reaches the search, as that of a microphone's guesses does."""
    budgets = []
    search = engine.view.searcher.search

    def noted(parts, *, alarm_budget):
        budgets.append(alarm_budget)
        return search(parts, alarm_budget=alarm_budget)

    async def run() -> None:
        wanted = engine.rows_of(48_000)
        rows = np.ones(wanted.shape, np.int8)
        heard = await engine.identify_rows(wanted, rows, alarm_budget=0.25)
        assert (heard.length_s, heard.samples) == (3.0, None)

    monkeypatch.setattr(engine.view.searcher, "search", noted)
    asyncio.run(run())
    assert budgets == [0.25]

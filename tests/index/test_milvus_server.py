"""The real Milvus: the server of the package `milvus`, started, killed and started again.

python -m venv V && V/bin/pip install milvus==2.3.5
CONFP_MILVUS_SERVER=V/bin/milvus-server pytest -m slow tests/index/test_milvus_server.py
"""

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import time
from collections.abc import Iterator

import numpy as np
import pytest
from sample_tracks import STAMP, track
from unit_vectors import unit_rows

from confp_jax.database import Database, DatabaseError
from confp_jax.index import ApproximateIndex, ExactIndex, on_disk
from confp_jax.index.milvus_sync import connect
from confp_jax.index.on_disk import open_index, rebuild, stale_share
from confp_jax.index.remote import open_remote

SERVER = os.environ.get("CONFP_MILVUS_SERVER", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SERVER, reason="CONFP_MILVUS_SERVER names no milvus-server"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
]
DIM = 64


class Server:
    """A server of its own folder and port."""

    def __init__(self, folder: pathlib.Path):
        self._folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"milvus://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        command = [SERVER, "--data", self._folder, "--proxy-port", str(self.port)]
        self._process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
        until = time.monotonic() + 300
        while time.monotonic() < until:
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", self.port), 1),
            ):
                return
            time.sleep(1)
        raise TimeoutError("the server did not start")

    def kill(self) -> None:
        """As a power cut does, with all of its processes."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("milvus"))
    yield server
    server.kill()


@pytest.fixture(autouse=True)
def own_configuration(tmp_path, monkeypatch) -> None:
    """The addresses that are named here are not the user's."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def filled(folder: pathlib.Path, server: Server, *, precision: str, num: int = 60) -> Database:
    database = Database.create(folder, STAMP, precision=precision)
    with database.writing():
        rows = [unit_rows(np.random.default_rng(n), 50, DIM) for n in range(num)]
        database.add([track(n, vectors=part) for n, part in enumerate(rows)])
        on_disk.choose(database, kind=server.uri)
        rebuild(database)
    return database


def check(database: Database) -> None:
    """The same first rows as exact search, from a mirror that is complete."""
    snapshot = database.snapshot()
    assert stale_share(database, snapshot) == 0.0
    index = open_index(database, snapshot)
    assert isinstance(index, ApproximateIndex) and index._tail is None
    vectors = np.asarray(snapshot.vectors)
    queries = vectors[::97] + 0.05 * unit_rows(np.random.default_rng(1), len(vectors[::97]), DIM)
    found = index.search(queries, k=5)
    expected = ExactIndex(vectors).search(queries, k=5)
    assert np.mean(found.rows[:, 0] == expected.rows[:, 0]) > 0.99


@pytest.mark.parametrize("precision", ["binary", "float16"])
def test_sync_delete_and_two_databases(server, tmp_path, precision):
    one = filled(tmp_path / "one", server, precision=precision)
    two = filled(tmp_path / "two", server, precision=precision, num=20)
    check(one)
    check(two)
    with one.writing():
        one.remove([found.id for found in one.tracks()[10:20]])
        one.add([track(100, vectors=unit_rows(np.random.default_rng(100), 70, DIM))])
        on_disk.rebuild_if_due(one)
    check(one)
    check(two)
    vectors = np.asarray(one.snapshot().vectors)
    snapshot, index = open_remote(server.uri, one)
    np.testing.assert_allclose(snapshot.vectors[::7], vectors[::7], atol=1e-6)
    assert index.search(vectors[:9], k=1).rows[:, 0].tolist() == list(range(9))
    for database in (one, two):
        connect(server.uri, database).drop()


def test_a_killed_server_and_one_that_is_back(server, tmp_path):
    database = filled(tmp_path / "db", server, precision="binary")
    snapshot = database.snapshot()
    vectors = np.asarray(snapshot.vectors[:3])
    index = open_index(database, snapshot)
    remote_snapshot, remote = open_remote(server.uri, database)
    server.kill()
    with pytest.raises(DatabaseError, match=f"127.0.0.1:{server.port} cannot be used"):
        index.search(vectors, k=1)
    with database.writing():
        database.set_setting("index", f"{server.uri}?fallback=exact")
    lenient = open_index(database, snapshot)
    assert lenient.search(vectors, k=1).rows[:, 0].tolist() == [0, 1, 2]
    server.start()
    for one in (index, remote):
        assert answered(one, vectors) == [0, 1, 2]
    np.testing.assert_allclose(remote_snapshot.vectors[:3], vectors)
    with database.writing():
        database.set_setting("index", server.uri)
    check(database)


def answered(index, vectors: np.ndarray) -> list[int]:
    """A server that starts needs a while until it has its collections again."""
    until = time.monotonic() + 120
    while True:
        try:
            return index.search(vectors, k=1).rows[:, 0].tolist()
        except DatabaseError:
            if time.monotonic() > until:
                raise
            time.sleep(2)


def test_every_index_type_is_one_that_the_server_makes(server, tmp_path, monkeypatch):
    from confp_jax.index import milvus

    for name, sizes in {
        "IVF_SQ8": (10**6, 10**6, 10**8),
        "SCANN": (10, 10, 10**8),
        "BIN_IVF_FLAT": (10, 10**6, 10**8),
    }.items():
        for setting, size in zip(("_FLAT_ROWS", "_SMALL_ROWS", "_MEMORY_ROWS"), sizes, strict=True):
            monkeypatch.setattr(milvus, setting, size)
        precision = "binary" if name.startswith("BIN") else "float16"
        database = filled(tmp_path / name, server, precision=precision)
        collection = connect(server.uri, database)
        assert collection._index_type == name
        check(database)
        collection.drop()

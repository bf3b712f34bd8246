"""The MCP server, asked by the official SDK's client."""

import asyncio
import pathlib
import sys
from typing import Any

import pytest

from confp_jax.database import Database, DatabaseError
from confp_jax.library.add import add_paths

mcp = pytest.importorskip("mcp")
pytestmark = pytest.mark.slow
FOLDER = pathlib.Path(__file__).resolve().parents[2] / "integrations" / "mcp"


@pytest.fixture
def server(database: Database, embedder, checkpoint, files, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    from confp_mcp import make_server

    add_paths(database, embedder, files)
    yield make_server(database.folder, model=str(checkpoint), allowed=[files[0].parent])
    sys.modules.pop("confp_mcp", None)


def ask(server: Any, *calls: tuple[str, dict]) -> list[Any]:
    async def run() -> list[Any]:
        async with mcp.Client(server) as client:
            names = {tool.name for tool in (await client.list_tools()).tools}
            assert names == {"identify", "search", "compare", "list"}
            return [await client.call_tool(name, given) for name, given in calls]

    return asyncio.run(run())


def test_every_tool(server, files):
    path = str(files[2])
    listed, found, identified, compared = ask(
        server,
        ("list", {"offset": 1, "limit": 2}),
        ("search", {"text": "3"}),
        ("identify", {"path": path}),
        ("compare", {"a": path, "b": path}),
    )
    assert listed.structured_content["total"] == 5
    assert [track["name"] for track in listed.structured_content["tracks"]] == ["1", "2"]
    assert "3" in {track["name"] for track in found.structured_content["tracks"]}
    assert identified.structured_content["matches"][0]["track"] == "2"
    assert compared.structured_content["sections"][0]["a_s"] == 0.0


def test_what_is_wrong_is_told(server, files, tmp_path):
    bad = files[0].parent / "bad.wav"
    bad.write_text("no audio")
    answers = ask(
        server,
        ("identify", {"path": str(bad)}),
        ("identify", {"path": str(files[0].parent / "missing.wav")}),
        ("identify", {"path": "/etc/passwd"}),
    )
    texts = [answer.content[0].text for answer in answers]
    assert all(answer.is_error for answer in answers)
    assert "is it audio?" in texts[0] and "no such file" in texts[1] and "outside" in texts[2]


def test_no_database_is_made(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    from confp_mcp import make_server

    with pytest.raises(DatabaseError):
        make_server(tmp_path / "none.db")
    assert not (tmp_path / "none.db").exists()

"""MCP server: an agent identifies, compares and looks up recordings in a database."""

import argparse
import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

import confp_jax
from confp_jax.database import Database, StoredTrack
from confp_jax.database.names import folded, shown_texts
from confp_jax.errors import UserError
from confp_jax.library.compare import compare_files
from confp_jax.library.library import Library

_MOST_TRACKS = 500


def make_server(
    folder: str | pathlib.Path, *, model: str | None = None, allowed: Sequence[pathlib.Path] = ()
) -> MCPServer:
    """Returns a server for a database.

    Args:
      folder: the database.
      model: where its model is, if not where it was.
      allowed: the only folders whose audio is read; none: all that the process may read.

    Raises:
      DatabaseError: the folder is no database.
    """
    if not (pathlib.Path(folder) / "catalogue.sqlite").is_file():
        Database(folder)  # raises, and makes none
    library = confp_jax.open(folder, model=model)
    folders = [path.resolve() for path in allowed]
    server = MCPServer(
        "confp", instructions="Identifies music: which recording a file is, and where in it."
    )
    _add_audio_tools(server, library, model, folders)
    _add_track_tools(server, library)
    return server


def _add_audio_tools(
    server: MCPServer, library: Library, model: str | None, folders: Sequence[pathlib.Path]
) -> None:
    """Adds the tools that read audio files, of `folders` alone if there are any."""

    def audio(path: str) -> pathlib.Path:
        file = pathlib.Path(path).expanduser().resolve()
        if folders and not any(file.is_relative_to(folder) for folder in folders):
            raise ToolError(f"{path}: lies outside the folders that may be read")
        if not file.is_file():
            raise ToolError(f"{path}: no such file")
        return file

    @server.tool()
    def identify(path: str) -> dict[str, Any]:
        """Identifies the recordings in an audio file of at least 1 s, better 3 s. The first
        `num_accepted` matches are answers; with the verdict "unknown" there are none, and the
        matches are only the nearest tracks.
        """
        answer = library.identify_file(audio(path))
        if answer.error:
            raise ToolError(answer.error)
        return dataclasses.asdict(answer)

    @server.tool()
    def compare(a: str, b: str) -> dict[str, Any]:
        """Finds the sections that two audio files share, with their places in both."""
        try:
            sections = compare_files(audio(a), audio(b), model)
        except UserError as error:
            raise ToolError(str(error)) from error
        return {"sections": [dataclasses.asdict(section) for section in sections]}


def _add_track_tools(server: MCPServer, library: Library) -> None:
    """Adds the tools that name the database's tracks."""

    @server.tool()
    def search(text: str, limit: int = 50) -> dict[str, Any]:
        """Finds tracks with a text in their name, title, artist, album, path or another tag."""
        wanted = folded(text)
        found = [
            track
            for track in library.tracks()
            if any(wanted in folded(one) for one in (*shown_texts(track), track.path))
        ]
        return {"total": len(found), "tracks": [_shown(one) for one in found[: _bounded(limit)]]}

    @server.tool(name="list")
    def list_tracks(offset: int = 0, limit: int = 100) -> dict[str, Any]:
        """Lists the tracks of the database, `limit` of them from `offset` on."""
        tracks = library.tracks()
        chosen = tracks[max(0, offset) : max(0, offset) + _bounded(limit)]
        return {"total": len(tracks), "tracks": [_shown(track) for track in chosen]}


def _bounded(limit: int) -> int:
    return min(max(1, limit), _MOST_TRACKS)


def _shown(track: StoredTrack) -> dict[str, Any]:
    fields = dataclasses.asdict(track)
    return {name: fields[name] for name in fields if name not in ("first_row", "sha256")}


def main() -> None:
    """Serves a database on standard input and output."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("database", help="the database's folder")
    parser.add_argument("--model", help="where its model is, if not where it was")
    parser.add_argument(
        "--allow",
        action="append",
        type=pathlib.Path,
        default=[],
        metavar="FOLDER",
        help="read audio only in this folder (may be repeated)",
    )
    args = parser.parse_args()
    try:
        server = make_server(args.database, model=args.model, allowed=args.allow)
    except UserError as error:
        parser.exit(1, f"error: {error}\n")
    server.run("stdio")


if __name__ == "__main__":
    main()

"""This project's own program: a database of any checkpoint, asked as a user asks it."""

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence

from confp_jax.evaluation.systems.protocol import (
    Answer,
    Found,
    QueryError,
    SystemFailedError,
    answers,
)
from confp_jax.library.add import add_paths
from confp_jax.library.open import open_database, open_or_create
from confp_jax.library.searcher import Searcher


@dataclasses.dataclass(frozen=True)
class Ours:
    """The results are the nearest tracks whether accepted or not; the score is the confidence."""

    folder: pathlib.Path
    checkpoint: str

    def index(self, files: Sequence[pathlib.Path]) -> None:
        """As `confp add`."""
        database, embedder = open_or_create(self.folder / "music.db", self.checkpoint)
        failed = [added for added in add_paths(database, embedder, files) if added.error]
        if failed:
            raise SystemFailedError(
                f"{len(failed)} of {len(files)} files were not added; first {failed[0].path}: "
                f"{failed[0].error}"
            )

    def query(self, files: Sequence[pathlib.Path]) -> Iterator[Answer]:
        """As `confp identify`."""
        searcher = Searcher(*open_database(self.folder / "music.db", self.checkpoint))

        def answer(file: pathlib.Path) -> list[Found]:
            told = searcher.identify_file(file)
            if told.error:
                raise QueryError(told.error)
            return [
                Found(m.track, m.offset_s - m.tempo * m.query_offset_s, m.confidence)
                for m in told.matches
            ]

        return answers(files, answer)

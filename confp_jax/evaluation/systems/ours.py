"""This project's own program: a database of any checkpoint, asked as a user asks it."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Iterator, Sequence

from confp_jax.evaluation.systems.protocol import (
    Answer,
    Found,
    QueryError,
    SystemFailedError,
    answers,
)
from confp_jax.fingerprint.embedder import Embedder, load_encoder
from confp_jax.library.add import add_paths
from confp_jax.library.open import open_database, open_or_create
from confp_jax.library.searcher import Searcher
from confp_jax.matching.decision import load_decision


def answers_version(embedder: Embedder) -> str:
    """Returns the names of a model's weights and of their calibration."""
    decision = load_decision(embedder.folder, embedder.weights_hash).to_json()
    return f"{embedder.weights_hash}-{hashlib.sha256(decision.encode()).hexdigest()[:16]}"


@dataclasses.dataclass(frozen=True)
class Ours:
    """The results are the nearest tracks whether accepted or not; the score is the confidence."""

    folder: pathlib.Path
    checkpoint: str

    def version(self) -> str:
        """Returns the names of the weights and of their calibration."""
        return answers_version(load_encoder(self.checkpoint))

    def index(self, files: Sequence[pathlib.Path]) -> None:
        """Indexes the files, as `confp add` does."""
        database, embedder = open_or_create(self.folder / "music.db", self.checkpoint)
        failed = [added for added in add_paths(database, embedder, files) if added.error]
        if failed:
            raise SystemFailedError(
                f"{len(failed)} of {len(files)} files were not added; first {failed[0].path}: "
                f"{failed[0].error}"
            )

    def query(self, files: Sequence[pathlib.Path]) -> Iterator[Answer]:
        """Answers the queries, as `confp identify` does."""
        searcher = Searcher(*open_database(self.folder / "music.db", self.checkpoint))

        def find(file: pathlib.Path) -> list[Found]:
            answer = searcher.identify_file(file)
            if answer.error:
                raise QueryError(answer.error)
            return [
                Found(m.track, m.offset_s - m.tempo * m.query_offset_s, m.confidence)
                for m in answer.matches
            ]

        return answers(files, find)

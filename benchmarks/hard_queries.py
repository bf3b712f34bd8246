"""Hard queries with the truth, and the real rows that they are searched among, kept in one file.

    python -m benchmarks.hard_queries DATASET QUERIES... --out hard.pkl

The conditions are noise of 0 dB and recordings by microphone; each excerpt of 3 s is also cut to
its first 1 s and 2 s. `--cache` as in the evaluation.
"""

import argparse
import dataclasses
import pathlib
import pickle
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float32, Int64
from rich.console import Console

from confp_jax.data.clips import ClipSource
from confp_jax.evaluation.measure.indexed_dataset import cut, embed_reference
from confp_jax.evaluation.measure.query_sets import find_query_sets, spread
from confp_jax.fingerprint.embedder import Embedder, load_encoder
from confp_jax.fingerprint.query import Query
from confp_jax.matching.query_windows import query_windows

CONDITIONS = (
    "background_0db",
    "coloured_0db",
    "replayed_near",
    "replayed_far",
    "replayed_loud_place",
)
LENGTHS_S = (1.0, 2.0, 3.0)


@dataclasses.dataclass(frozen=True)
class HardQuery:
    """An excerpt of track number `track`, whose moment `start_s` is the query's beginning."""

    condition: str
    length_s: float
    track: int
    start_s: float
    query: Query


@dataclasses.dataclass(frozen=True)
class HardQueries:
    """Queries, and the tracks' rows as a database gives them back."""

    tracks: list[tuple[str, Float32[np.ndarray, "n E"]]]
    hop_s: float
    segment_s: float
    query_phases: int
    queries: list[HardQuery]

    @property
    def rows(self) -> Float32[np.ndarray, "N E"]:
        """Returns the rows of all tracks."""
        return np.concatenate([rows for _, rows in self.tracks])

    def windows(self, num: int) -> tuple[Float32[np.ndarray, "W E"], Int64[np.ndarray, " W"]]:
        """Returns about `num` of the windows that the queries are searched by, evenly drawn, and
        each one's track.
        """
        found = []
        tracks = []
        for query in self.queries:
            windows = query_windows(query.query)
            some = windows.searched[:: max(1, len(windows.searched) // 4)]
            found.append(windows.vectors[some])
            tracks += [query.track] * len(some)
        step = max(1, len(tracks) // num)
        return np.concatenate(found)[::step], np.array(tracks, np.int64)[::step]

    def row_tracks(self) -> Int64[np.ndarray, " N"]:
        """Returns the track of every row."""
        return np.repeat(np.arange(len(self.tracks)), [len(rows) for _, rows in self.tracks])


def read_hard_queries(path: pathlib.Path) -> HardQueries:
    """Returns what this program wrote; only a file of one's own may be read (pickle)."""
    return pickle.loads(path.read_bytes())


def main() -> None:
    """Fingerprints what is asked for and writes it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset")
    parser.add_argument("queries", nargs="+", help="folders of query sets")
    parser.add_argument("--model", default="edge2")
    parser.add_argument("--splits", nargs="+", default=["training", "validation", "test"])
    parser.add_argument("--num", type=int, default=60, help="excerpts of each condition")
    parser.add_argument("--cache", default="")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    embedder = load_encoder(args.model)
    indexed = embed_reference(embedder, args.dataset, args.splits, Console(), cache=args.cache)
    reference = indexed.reference
    queries = []
    for excerpt, length_s in _excerpts(embedder, ",".join(args.queries), args.num):
        track = indexed.number(excerpt.track_id)
        start_s = excerpt.start_s - float(indexed.starts_s[track])
        queries.append(HardQuery(excerpt.condition, length_s, track, start_s, excerpt.query))
    tracks = [
        (track.name, reference.rows_of(number))
        for number, track in enumerate(reference.snapshot.tracks)
    ]
    found = HardQueries(
        tracks, reference.hop_s, reference.segment_s, reference.query_phases, queries
    )
    args.out.write_bytes(pickle.dumps(found))
    print(f"{len(queries)} queries, {len(found.rows)} rows of {len(tracks)} tracks")


def _excerpts(embedder: Embedder, folders: str, num: int) -> Iterator[tuple]:
    for condition in CONDITIONS:
        for one in find_query_sets(folders):
            if one.length_s < max(LENGTHS_S) or condition not in one.conditions:
                continue
            source = ClipSource(one.folder, condition)
            rate_hz = source.summary.sample_rate_hz
            for row in spread(len(source), num):
                for length_s in LENGTHS_S:
                    options = {"begin_s": 0.0, "length_s": length_s, "sample_rate_hz": rate_hz}
                    yield cut(source[row], condition, embedder, row=row, **options), length_s


if __name__ == "__main__":
    from benchmarks import hard_queries  # what is pickled must not be `__main__`'s

    hard_queries.main()

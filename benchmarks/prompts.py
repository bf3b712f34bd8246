"""Telephone prompts as calls carry them: what is added, found and answered, and false alarms.

    python -m data_prep.fetch_corpus prompts --table data_prep/prompts.csv
    python -m benchmarks.prompts prompts --out results/prompts.json

Each prompt is a query through a telephone line, whole (its first 10 s at most) and, where it is
longer than 3 s, as a part of 1 to 3 s. It is found when the first match has its text, and answered
when that match is accepted. Every query is also searched for where its text is not in the database,
which has the other prompts of the same voice: whatever is answered then is a false alarm, unless
the two prompts were cut from one take. Then their waveforms are the same for a while: a correlation
of 0.99 and more over 0.75 s, which the same sentence said twice does not reach (0.79 at most).
Prompts of 3 s and more are also heard live, as `/v1/listen` does with the profile "calls".
"""

import argparse
import collections
import dataclasses
import json
import pathlib
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import scipy.signal
from jaxtyping import Float32

from confp_jax.audio.decode import decode
from confp_jax.data.telephone import draw_telephone, telephone
from confp_jax.database import Database
from confp_jax.fingerprint.embedder import Embedder, load_encoder
from confp_jax.fingerprint.query import Query
from confp_jax.library.add import add_paths
from confp_jax.library.listening import PACES, identify_growing
from confp_jax.library.searcher import ReferenceSearcher, Searcher
from confp_jax.matching.searchable import some_tracks
from data_prep import fma
from data_prep.make_queries import CONDITIONS

CONDITIONS_ASKED = ("call_gsm", "call_mulaw")
_FOLDS = 5  # the database without a prompt's text lacks those of a fifth
_SHORTEST_S = 1.0
_LONGEST_S = 10.0
_PART_S = (1.0, 3.0)
_LIVE_S = 3.0
_PACKET = 1_600  # samples that come at once
_TAKE_S = 0.75
_TAKE_CORRELATION = 0.95
_KNOWN_S = {"1-3 s": 3.0, "3-5 s": 5.0, "5 s and more": np.inf}
_UNKNOWN_S = {"1-3 s": 3.0, "3-10 s": np.inf}


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A recording of at least 1 s; `text` is who speaks, and what."""

    path: pathlib.Path
    text: str
    samples: Float32[np.ndarray, " n"]

    @property
    def fold(self) -> int:
        """Returns which of the folds its text is in."""
        return zlib.crc32(self.text.encode()) % _FOLDS


@dataclasses.dataclass(frozen=True)
class Call:
    """A prompt, or a part of it, as a telephone line carries it."""

    prompt: Prompt
    condition: str
    is_part: bool
    samples: Float32[np.ndarray, " n"]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a search said: the text of the first match, whether it was accepted, and whether it is
    of the same take as the query.
    """

    condition: str
    is_part: bool
    length_s: float
    is_known: bool
    is_right: bool
    is_accepted: bool
    is_same_take: bool
    text: str
    answer: str


def read_prompts(folder: pathlib.Path, *, sample_rate_hz: int) -> list[Prompt]:
    """Returns the prompts of a folder that `data_prep.fetch_corpus` filled, of 1 s and more."""
    prompts = []
    for track in fma.read_tracks(folder / "tracks.csv", folder, subset="full"):
        samples = decode(track.path, sample_rate_hz=sample_rate_hz).samples
        if len(samples) >= _SHORTEST_S * sample_rate_hz:
            prompts.append(Prompt(track.path, _plain(track.name), samples))
    return prompts


def _plain(text: str) -> str:
    return " ".join("".join(c if c.isalnum() else " " for c in text.lower()).split())


def calls(
    prompts: Iterable[Prompt], conditions: Sequence[str], *, sample_rate_hz: int
) -> Iterator[Call]:
    """Yields the queries."""
    rng = np.random.default_rng(0)
    for prompt in prompts:
        for condition in conditions:
            config = CONDITIONS[condition].clip.call
            drawn = draw_telephone(rng, config)
            heard = telephone(prompt.samples, drawn, sample_rate_hz=sample_rate_hz)
            yield Call(prompt, condition, False, heard[: round(_LONGEST_S * sample_rate_hz)])
            if len(heard) >= _PART_S[1] * sample_rate_hz:
                num = round(rng.uniform(*_PART_S) * sample_rate_hz)
                first = int(rng.integers(len(heard) - num + 1))
                yield Call(prompt, condition, True, heard[first : first + num])


def searchers(
    prompts: Sequence[Prompt], embedder: Embedder, folder: pathlib.Path
) -> tuple[ReferenceSearcher, list[ReferenceSearcher], int]:
    """Returns a searcher of all prompts, one without each fold, and how many prompts were added."""
    database = Database.create(
        folder / "prompts.db", embedder.model_id, precision=embedder.precision
    )
    added = add_paths(database, embedder, [prompt.path for prompt in prompts])
    every = Searcher(database, embedder)
    fold_of = {str(prompt.path.resolve()): prompt.fold for prompt in prompts}
    folds = [fold_of[track.path] for track in every.reference.snapshot.tracks]
    without = []
    for fold in range(_FOLDS):
        kept = [place for place, other in enumerate(folds) if other != fold]
        reference = some_tracks(every.reference, kept)
        without.append(ReferenceSearcher(reference, embedder, every.decision))
    return every, without, sum(one.status != "failed" for one in added)


def search(
    searcher: ReferenceSearcher,
    call: Call,
    query: Query,
    by_name: dict[str, Prompt],
    *,
    is_known: bool,
) -> Outcome:
    """Returns what a searcher makes of a call; prompts are by the name of a track."""
    answer = searcher.answer("call", searcher.search([query]), began=0.0)
    first = by_name[answer.matches[0].track] if answer.matches else None
    is_right = first is not None and first.text == call.prompt.text
    is_accepted = answer.num_accepted > 0
    rate_hz = searcher.embedder.sample_rate_hz
    return Outcome(
        call.condition,
        call.is_part,
        len(call.samples) / rate_hz,
        is_known,
        is_right,
        is_accepted,
        is_right or (is_accepted and first is not None and _same_take(call.prompt, first, rate_hz)),
        call.prompt.text,
        first.text if first else "",
    )


def _same_take(one: Prompt, other: Prompt, sample_rate_hz: int) -> bool:
    """Returns whether two prompts have some waveform in common."""
    num = round(_TAKE_S * sample_rate_hz)
    if min(len(one.samples), len(other.samples)) < num:
        return False
    energy = np.cumsum(np.square(other.samples, dtype=np.float64))
    norms = np.sqrt(energy[num - 1 :] - np.concatenate([[0.0], energy[:-num]]))
    norms = np.maximum(norms, 0.1 * np.median(norms))  # of pauses, which are alike
    usual = np.sqrt(num) * np.sqrt(np.mean(np.square(one.samples)))
    for first in range(0, len(one.samples) - num + 1, num // 3):
        piece = one.samples[first : first + num]
        norm = float(np.linalg.norm(piece))
        if norm > 0.3 * usual:
            alike = scipy.signal.fftconvolve(other.samples, piece[::-1], mode="valid") / norms
            if float(alike.max()) >= _TAKE_CORRELATION * norm:
                return True
    return False


def first_answer(searcher: ReferenceSearcher, call: Call) -> tuple[float, str]:
    """Returns how many seconds of a call were heard when it was first answered (infinity: never)
    and the name of the track.
    """
    blocks = np.array_split(call.samples, max(1, round(len(call.samples) / _PACKET)))
    looks = identify_growing(searcher, blocks, query="call", pace=PACES["calls"])
    for heard_s, answer in looks:
        if answer.num_accepted:
            return heard_s, answer.matches[0].track
    return np.inf, ""


def live_row(
    searcher: ReferenceSearcher, asked: Sequence[Call], by_name: dict[str, Prompt]
) -> dict[str, Any]:
    """Returns how soon calls are answered while they are heard; one that is not answered takes for
    ever.
    """
    found = [first_answer(searcher, call) for call in asked]
    right = [
        name in by_name and by_name[name].text == call.prompt.text
        for (_, name), call in zip(found, asked, strict=True)
    ]
    wrong = [not ok and bool(name) for (_, name), ok in zip(found, right, strict=True)]
    heard_s = [s if ok else np.inf for (s, _), ok in zip(found, right, strict=True)]
    median_s, p90_s = np.quantile(heard_s, (0.5, 0.9), method="higher")
    row = {"live": asked[0].condition, "num": len(asked), "answered": _percent(right)}
    return row | {"wrong": _percent(wrong), "median_s": str(median_s), "p90_s": str(p90_s)}


def table(outcomes: Iterable[Outcome]) -> list[dict[str, Any]]:
    """Returns a row for each condition and length, with shares in percent."""
    groups: dict[tuple[Any, ...], list[Outcome]] = collections.defaultdict(list)
    for one in outcomes:
        lengths = _KNOWN_S if one.is_known else _UNKNOWN_S
        length = next(name for name, below_s in lengths.items() if one.length_s < below_s)
        what = "part" if one.is_part else "whole"
        groups[one.is_known, one.condition, what, length].append(one)
    rows = []
    for (is_known, condition, what, length), same in sorted(groups.items(), key=lambda g: g[0]):
        row = {"in_database": is_known, "condition": condition, "query": what, "length": length}
        row |= {"num": len(same), "answered": _percent(one.is_accepted for one in same)}
        row["wrong"] = _percent(one.is_accepted and not one.is_same_take for one in same)
        if is_known:
            row["found"] = _percent(one.is_right for one in same)
        rows.append(row)
    return rows


def _percent(values: Iterable[bool]) -> float:
    return round(100 * float(np.mean(list(values))), 2)


def main() -> None:
    """Runs the benchmark and writes its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("prompts", type=pathlib.Path, help="a folder with tracks.csv")
    parser.add_argument("--model", default="edge2")
    parser.add_argument("--conditions", nargs="+", default=CONDITIONS_ASKED)
    parser.add_argument("--every", type=int, default=1, metavar="N", help="ask each N-th prompt")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    embedder = load_encoder(args.model)
    rate_hz = embedder.sample_rate_hz
    prompts = read_prompts(args.prompts, sample_rate_hz=rate_hz)
    by_name = {prompt.path.stem: prompt for prompt in prompts}
    outcomes = []
    live = []
    with tempfile.TemporaryDirectory() as scratch:
        every, without, num_added = searchers(prompts, embedder, pathlib.Path(scratch))
        for call in calls(prompts[:: args.every], args.conditions, sample_rate_hz=rate_hz):
            query = embedder.query(call.samples)
            outcomes.append(search(every, call, query, by_name, is_known=True))
            lacking = without[call.prompt.fold]
            outcomes.append(search(lacking, call, query, by_name, is_known=False))
            if not call.is_part and len(call.samples) >= _LIVE_S * rate_hz:
                live.append(call)
        same = [[one for one in live if one.condition == name] for name in args.conditions]
        rows = [live_row(every, some, by_name) for some in same if some]
    print(f"{num_added} of {len(prompts)} prompts added")
    rows += table(outcomes)
    for row in rows:
        print(json.dumps(row))
    alarms = [one for one in outcomes if one.is_accepted and not one.is_same_take]
    values = {"added": num_added, "prompts": len(prompts), "rows": rows}
    values["wrong"] = [dataclasses.asdict(one) for one in alarms]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(values, indent=1))


if __name__ == "__main__":
    main()

"""`confp compare` on pairs with the truth: what is listed wrongly, and how exact the edges are.

    python -m benchmarks.sections MUSIC --pairs 60 --out results/sections.json

MUSIC is in FMA's layout with its tracks.csv. Two recordings of other music share a section of 6 to
20 s, which is in the second one as it is, coded, noisy, or played faster or slower by up to 10 %.
Of other pairs, which are different tracks of one album, nothing may be listed.
"""

import argparse
import dataclasses
import json
import pathlib
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import soundfile
import soxr
from jaxtyping import Float32

from confp_jax.audio.decode import decode
from confp_jax.audio.encode import through_codec
from confp_jax.library.compare import CommonSection, compare_files
from data_prep import fma
from data_prep.tracks import Track

RATE_HZ = 16_000
EDGE_S = 0.5
_SECTION_S = (6.0, 20.0)
_AROUND_S = (4.0, 10.0)
_FADER = 0.1
_KINDS = ("same", "coded", "noisy", "faster")


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two recordings and the section that they share; `truth` is (a_s, b_s, length_s in A)."""

    kind: str
    a: Float32[np.ndarray, " n"]
    b: Float32[np.ndarray, " m"]
    truth: tuple[float, float, float] | None
    names: tuple[str, str]


def pairs(tracks: Sequence[Track], num: int) -> Iterator[Pair]:
    """Yields `num` pairs of each kind."""
    rng = np.random.default_rng(0)
    for kind in _KINDS:
        for _ in range(num):
            chosen = [tracks[i] for i in rng.choice(len(tracks), 5, replace=False)]
            yield _sharing(kind, chosen, rng)
    albums: dict[str, list[Track]] = {}
    for track in tracks:
        albums.setdefault(track.album, []).append(track)
    several = [same for album, same in albums.items() if album and len(same) > 1]
    for number in range(num):
        same = several[number % len(several)]
        one, other = (same[i] for i in rng.choice(len(same), 2, replace=False))
        yield Pair("album", _samples(one), _samples(other), None, (one.name, other.name))


def _sharing(kind: str, chosen: Sequence[Track], rng: np.random.Generator) -> Pair:
    section = _cut(_samples(chosen[0]), rng, _SECTION_S)
    around = [_cut(_samples(track), rng, _AROUND_S) for track in chosen[1:]]
    heard = _distorted(section, kind, rng)
    a = np.concatenate([around[0], section, around[1]])
    b = np.concatenate([around[2], heard, around[3]])
    a_s, b_s = (len(part) / RATE_HZ for part in (around[0], around[2]))
    return Pair(kind, a, b, (a_s, b_s, len(section) / RATE_HZ), (chosen[0].name, chosen[0].name))


def _samples(track: Track) -> Float32[np.ndarray, " n"]:
    samples = decode(track.path, sample_rate_hz=RATE_HZ).samples
    return samples / (float(np.sqrt(np.mean(samples**2))) + 1e-6) * np.float32(0.1)


def _cut(
    samples: Float32[np.ndarray, " n"], rng: np.random.Generator, length_s: tuple[float, float]
) -> Float32[np.ndarray, " m"]:
    num = min(round(rng.uniform(*length_s) * RATE_HZ), len(samples))
    first = int(rng.integers(len(samples) - num + 1))
    return samples[first : first + num]


def _distorted(
    section: Float32[np.ndarray, " n"], kind: str, rng: np.random.Generator
) -> Float32[np.ndarray, " m"]:
    if kind == "coded":
        return through_codec(section, sample_rate_hz=RATE_HZ, codec="opus", bitrate_kbps=24)
    if kind == "noisy":
        noise = rng.standard_normal(len(section)).astype(np.float32)
        return section + noise * np.float32(0.1 * 10 ** (-10 / 20))
    if kind == "faster":
        speed = 1 + rng.uniform(-_FADER, _FADER)
        return soxr.resample(section, RATE_HZ * speed, RATE_HZ, quality="HQ")
    return section


def compared(pair: Pair, model: str) -> dict[str, Any]:
    """Returns what is listed of a pair, and how far the edges of what is shared are off."""
    with tempfile.TemporaryDirectory() as folder:
        a = pathlib.Path(folder) / "a.wav"
        b = pathlib.Path(folder) / "b.wav"
        soundfile.write(a, pair.a, RATE_HZ, subtype="FLOAT")
        soundfile.write(b, pair.b, RATE_HZ, subtype="FLOAT")
        listed = compare_files(a, b, model)
    right = [one for one in listed if pair.truth and _shares(one, pair.truth)]
    row: dict[str, Any] = {
        "kind": pair.kind,
        "names": pair.names,
        "listed": len(listed),
        "found": bool(right),
    }
    row["wrong"] = [dataclasses.asdict(one) for one in listed if one not in right]
    if right and pair.truth:
        begin_s = min(one.a_s for one in right) - pair.truth[0]
        end_s = max(one.a_s + one.length_s for one in right) - pair.truth[0] - pair.truth[2]
        row |= {"begin_s": round(begin_s, 2), "end_s": round(end_s, 2), "pieces": len(right)}
        row["length_s"] = round(pair.truth[2], 2)
    return row


def _shares(one: CommonSection, truth: tuple[float, float, float]) -> bool:
    """Returns whether a section lies where the truth does, in both recordings."""
    a_s, b_s, length_s = truth
    shared_s = min(one.a_s + one.length_s, a_s + length_s) - max(one.a_s, a_s)
    late_s = (one.b_s - b_s) - one.tempo * (one.a_s - a_s)
    return shared_s > 0.5 * one.length_s and abs(late_s) < 1.5


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns a row for each kind of pair."""
    found = []
    for kind in dict.fromkeys(row["kind"] for row in rows):
        same = [row for row in rows if row["kind"] == kind]
        edges = [abs(row[edge]) for row in same if row["found"] for edge in ("begin_s", "end_s")]
        values = {"kind": kind, "pairs": len(same), "found": sum(row["found"] for row in same)}
        values["wrong"] = sum(len(row["wrong"]) for row in same)
        if edges:
            values["edge_median_s"] = round(float(np.median(edges)), 2)
            values["edge_p90_s"] = round(float(np.quantile(edges, 0.9)), 2)
            values["edges_within"] = round(float(np.mean([edge <= EDGE_S for edge in edges])), 3)
        found.append(values)
    return found


def main() -> None:
    """Runs the benchmark and writes its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("music", type=pathlib.Path)
    parser.add_argument("--model", default="edge2")
    parser.add_argument("--pairs", type=int, default=60, help="of each kind")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    tracks = fma.read_tracks(args.music / "tracks.csv", args.music, subset="full")
    rows = [compared(pair, args.model) for pair in pairs(tracks, args.pairs)]
    values = {"summary": summary(rows), "rows": rows}
    print(json.dumps(values["summary"], indent=1))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(values, indent=1))


if __name__ == "__main__":
    main()

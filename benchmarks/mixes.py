"""DJ mixes with exact truth: tracks and edges that `confp monitor` finds, beside audfprint.

    python benchmarks/mixes.py MUSIC --voices NOISE --mixes 20 --minutes 60 --out results/mixes.json

A mix plays tracks one after the other with crossfades of 4 to 12 s (two tracks at once), each at a
speed of the pitch fader of up to 8 %, some with a loop, and voices over some of it. A reported
match is right where it overlaps a play of its track. audfprint is asked about 10 s every 5 s, and
answers from five landmarks on, as its own command line; answers that follow each other are one
match.
"""

import argparse
import dataclasses
import json
import pathlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import soundfile
import soxr
from jaxtyping import Float32

from confp_jax.audio.decode import decode
from confp_jax.database import Database
from confp_jax.evaluation.systems.audfprint import Audfprint
from confp_jax.fingerprint.embedder import load_encoder
from confp_jax.library.add import add_paths
from confp_jax.library.monitor import monitor
from confp_jax.library.searcher import Searcher

RATE_HZ = 16_000
EDGE_S = 5.0
_FADER = 0.08
_FADE_S = (4.0, 12.0)
_LOOP_S = (2.0, 8.0)
_LOOP_SHARE = 0.3
_VOICE_SHARE = 0.3
_VOICE_DB = (-6.0, 6.0)  # of the music beside the voice
_QUERY_S = 10.0
_STEP_S = 5.0
_LEAST_LANDMARKS = 5


@dataclasses.dataclass(frozen=True)
class Stretch:
    """A track from one moment of a mix to another; `rise_s` and `fall_s` of it are crossfades."""

    track: str
    begin_s: float
    end_s: float
    rise_s: float = 0.0
    fall_s: float = 0.0

    def overlaps(self, other: "Stretch") -> bool:
        """Returns whether both are of one track and share a moment."""
        shared = min(self.end_s, other.end_s) - max(self.begin_s, other.begin_s)
        return self.track == other.track and shared > 0


def make_mix(
    files: Sequence[pathlib.Path],
    voices: Sequence[pathlib.Path],
    rng: np.random.Generator,
    *,
    length_s: float,
) -> tuple[Float32[np.ndarray, " n"], list[Stretch]]:
    """Returns a mix and its truth."""
    mix = np.zeros(round((length_s + 120) * RATE_HZ), np.float32)
    truth: list[Stretch] = []
    at = 0
    for file in rng.permutation(np.array(files, dtype=object)):
        part = _played(decode(file, sample_rate_hz=RATE_HZ).samples, rng)
        fade = round(rng.uniform(*_FADE_S) * RATE_HZ)
        fade = min(fade, len(part) // 3)
        ramp = np.sin(np.linspace(0, np.pi / 2, fade, dtype=np.float32))
        part[:fade] *= ramp
        part[-fade:] *= ramp[::-1]
        if at + len(part) > len(mix):
            break
        mix[at : at + len(part)] += part
        if truth:  # the fades of two neighbours begin together; each has its own length
            before = truth.pop()
            truth.append(dataclasses.replace(before, fall_s=before.end_s - at / RATE_HZ))
        rise_s = truth[-1].fall_s if truth else 0.0
        truth.append(Stretch(file.stem, at / RATE_HZ, (at + len(part)) / RATE_HZ, rise_s))
        at += len(part) - fade
        if at > length_s * RATE_HZ:
            break
    mix = mix[: round(truth[-1].end_s * RATE_HZ)]
    for stretch in truth:
        if voices and rng.random() < _VOICE_SHARE:
            _talk_over(mix, stretch, voices[int(rng.integers(len(voices)))], rng)
    return mix / max(1.0, float(np.abs(mix).max())), truth


def _played(
    samples: Float32[np.ndarray, " n"], rng: np.random.Generator
) -> Float32[np.ndarray, " m"]:
    """A track as a DJ plays it: at another speed, some of it looped."""
    samples = samples / (float(np.sqrt(np.mean(samples**2))) + 1e-6) * 0.1
    if rng.random() < _LOOP_SHARE:
        length = round(rng.uniform(*_LOOP_S) * RATE_HZ)
        begin = int(rng.integers(max(1, len(samples) - length)))
        loop = np.tile(samples[begin : begin + length], int(rng.integers(1, 4)))
        samples = np.concatenate([samples[: begin + length], loop, samples[begin + length :]])
    speed = 1 + rng.uniform(-_FADER, _FADER)
    return soxr.resample(samples.astype(np.float32), RATE_HZ * speed, RATE_HZ, quality="HQ").copy()


def _talk_over(
    mix: Float32[np.ndarray, " n"], stretch: Stretch, voice: pathlib.Path, rng: np.random.Generator
) -> None:
    samples = decode(voice, sample_rate_hz=RATE_HZ).samples
    first = round(rng.uniform(stretch.begin_s, stretch.end_s) * RATE_HZ)
    samples = samples[: max(0, len(mix) - first)]
    level = 0.1 * 10 ** (-rng.uniform(*_VOICE_DB) / 20)
    mix[first : first + len(samples)] += samples * level / (np.sqrt(np.mean(samples**2)) + 1e-6)


def confp_matches(searcher: Searcher, mix: Float32[np.ndarray, " n"]) -> list[Stretch]:
    """Returns what `confp monitor` reports."""
    blocks = (mix[first : first + RATE_HZ] for first in range(0, len(mix), RATE_HZ))
    founds = (event.found for event in monitor(searcher, blocks) if event.event == "match")
    return [
        Stretch(
            pathlib.Path(found.path).stem,
            found.query_offset_s,
            found.query_offset_s + found.length_s,
        )
        for found in founds
    ]


def audfprint_matches(
    system: Audfprint, mix: Float32[np.ndarray, " n"], folder: pathlib.Path
) -> list[Stretch]:
    """Returns runs of audfprint's answers about short pieces."""
    step = round(_STEP_S * RATE_HZ)
    size = round(_QUERY_S * RATE_HZ)
    pieces = []
    for number, first in enumerate(range(0, len(mix) - size + 1, step)):
        pieces.append(folder / f"{number:06d}.wav")
        soundfile.write(pieces[-1], mix[first : first + size], RATE_HZ)
    matches: list[Stretch] = []
    for number, answer in enumerate(system.query(pieces)):
        for found in answer.found:
            if found.score < _LEAST_LANDMARKS:
                continue
            new = Stretch(found.track, number * _STEP_S, number * _STEP_S + _QUERY_S)
            before = next((old for old in matches if old.overlaps(new)), None)
            if before is None:
                matches.append(new)
            else:
                matches[matches.index(before)] = dataclasses.replace(before, end_s=new.end_s)
    return matches


def score(truth: Sequence[Stretch], matches: Sequence[Stretch]) -> dict[str, int]:
    """Returns how many tracks were found, how many matches are wrong, and how many edges of the
    found ones are right within 5 s: of the first and last moment, where a track is not heard yet,
    and of the middle of a crossfade, where two tracks are equally loud.
    """
    begins: list[tuple[float, float]] = []
    ends: list[tuple[float, float]] = []
    for play in truth:
        own = [match for match in matches if match.overlaps(play)]
        if own:
            begin_s = min(match.begin_s for match in own) - play.begin_s
            end_s = max(match.end_s for match in own) - play.end_s
            begins.append((begin_s, begin_s - play.rise_s / 2))
            ends.append((end_s, end_s + play.fall_s / 2))
    wrong = sum(not any(match.overlaps(play) for play in truth) for match in matches)
    counts = {"plays": len(truth), "found": len(begins), "wrong": wrong}
    for name, errors in (("begins", begins), ("ends", ends)):
        for place, suffix in ((0, ""), (1, "_of_middle")):
            counts[name + suffix] = sum(abs(error[place]) <= EDGE_S for error in errors)
    return counts


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix in (".mp3", ".flac", ".wav"))


def run(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yields the scores of each system in each mix."""
    rng = np.random.default_rng(args.seed)
    files = _files(args.music)
    voices = _files(args.voices) if args.voices else []
    files = [files[i] for i in rng.permutation(len(files))[: args.tracks]]
    with tempfile.TemporaryDirectory() as place:
        folder = pathlib.Path(place)
        searchers = {}
        for model in args.models:
            embedder = load_encoder(model)
            made = Database.create(
                folder / f"{model}.db", embedder.model_id, precision=embedder.precision
            )
            add_paths(made, embedder, files)
            searchers[model] = Searcher(made, embedder)
        peer = Audfprint(folder)
        peer.index(files)
        for number in range(args.mixes):
            mix, truth = make_mix(files, voices, rng, length_s=60 * args.minutes)
            for name in (*searchers, "audfprint"):
                began = time.process_time()
                if name == "audfprint":
                    matches = audfprint_matches(peer, mix, folder)
                else:
                    matches = confp_matches(searchers[name], mix)
                used_s = round(time.process_time() - began, 1)
                yield {"mix": number, "system": name, "cpu_s": used_s} | score(truth, matches)


def main() -> None:
    """Runs the benchmark and writes its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("music", type=pathlib.Path)
    parser.add_argument("--voices", type=pathlib.Path)
    parser.add_argument("--models", nargs="+", default=["edge2"])
    parser.add_argument("--tracks", type=int, default=300)
    parser.add_argument("--mixes", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    rows = []
    for row in run(args):
        rows.append(row)
        print(json.dumps(row), flush=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()

"""Part of quickstart.sh: query records to wav files, and how many of the answers are right."""

import argparse
import json
import pathlib

import soundfile

from confp_jax.data.clips import ClipSource, read_splits


def write_excerpts(queries: pathlib.Path, folder: pathlib.Path) -> None:
    """Writes every excerpt as TRACK_at_SECONDS_CONDITION.wav, so that its name is the truth."""
    folder.mkdir(parents=True, exist_ok=True)
    for condition in read_splits(queries):
        source = ClipSource(queries, condition)
        for clip in source:
            track = pathlib.PurePath(source.summary.track_names[str(clip.track_id)]).stem
            name = f"{track}_at_{clip.start_s:.1f}s_{condition}.wav"
            soundfile.write(folder / name, clip.samples, source.summary.sample_rate_hz)


def print_score(answers_json: pathlib.Path) -> None:
    """Compares the answers with the truth in the names."""
    answers = json.loads(answers_json.read_text())
    nearest = right = placed = 0
    for answer in answers:
        track, _, rest = pathlib.PurePath(answer["query"]).stem.rpartition("_at_")
        best = answer["matches"][0] if answer["matches"] else None
        if best and best["track"] == track:
            nearest += 1
            right += answer["verdict"] == "match"
            placed += abs(best["offset_s"] - float(rest.split("s_")[0])) <= 0.5
    num = len(answers)
    print(
        f"of {num} excerpts with background noise at 10 dB: {right} identified rightly; nearest "
        f"track right {nearest}, its place within 0.5 s {placed}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("queries", type=pathlib.Path, nargs="?", help="query set")
    parser.add_argument("excerpts", type=pathlib.Path, nargs="?", help="folder for the wav files")
    parser.add_argument("--score", type=pathlib.Path, help="answers of confp identify --json")
    args = parser.parse_args()
    if args.score:
        print_score(args.score)
    elif args.queries and args.excerpts:
        write_excerpts(args.queries, args.excerpts)
    else:
        parser.error("name a query set and a folder, or --score ANSWERS")

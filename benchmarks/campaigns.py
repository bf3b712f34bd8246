"""Synthesised robocalls: how well `confp recurring` groups them, and how long it takes for many.

    python -m benchmarks.campaigns --calls calls/ --out results/campaigns.json
    python -m benchmarks.campaigns --calls calls/ --many 20000 --out results/many_calls.json

Six campaigns of 70 calls and 120 single messages, spoken by flite and espeak-ng (which must be
installed). Two campaigns of a voice begin with the same sentence. Of each call the answering side
speaks first, the name of the called is spoken into the message, the recording begins or ends within
it, and it goes through a telephone line with noise of 10 to 25 dB. `--many` times calls whose
fingerprints are made from these: every set of 540 has its own random signs, so that nothing recurs
between sets, or with `--jitter` noise, so that the campaigns grow.
"""

import argparse
import collections
import itertools
import json
import pathlib
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import soundfile
from jaxtyping import Float32

from confp_jax.audio.decode import decode
from confp_jax.data.telephone import TelephoneConfig, draw_telephone, telephone
from confp_jax.library.open import open_reference
from confp_jax.library.recurring import opened_sources, recurring_messages
from confp_jax.matching.recurring import recurring_tracks
from confp_jax.matching.searchable import Reference, make_reference
from data_prep.fetch_corpus import PROMPTS, read_table

RATE_HZ = 16_000
_CALLS = 70
_SINGLES = 120
_VOICES = ("flite:slt", "flite:rms", "espeak-ng:en-us+f3", "espeak-ng:en-gb")
_ANSWERING = ("flite:awb", "flite:kal16", "espeak-ng:en-us", "espeak-ng:en-gb-scotland+f2")
_LINE = TelephoneConfig(noise_p=1.0, noise_snr_db=(10.0, 25.0))
# Voice, and the message before and after the name of the called.
_CAMPAIGNS = (
    (0, "This is an important message regarding your vehicle. Mr.", "The factory warranty of your "
     "car has expired, and this is the final courtesy call before we close the file. Press one to "
     "speak with a warranty specialist, or press two to be removed from our list."),
    (0, "This is an important message regarding your vehicle. Mr.", "You may be due a refund on "
     "your insurance premium, since drivers in your area have been charged too much for years. "
     "Call back today on the number that you see, before the offer ends on Friday."),
    (1, "Hello, we are calling from the tax office. Mrs.", "A lawsuit has been filed against you, "
     "and the officers will be at your house within the hour. To settle the amount that you owe, "
     "stay on the line and have your card ready."),
    (1, "Hello, we are calling from the tax office. Mrs.", "Our records show an amount in your "
     "favour that was never paid out. So that we can send it to you, confirm the number of your "
     "account after the tone, and the date of your birth."),
    (2, "Your internet connection will be cut off today. Dear", "We have noticed unusual traffic "
     "from your address. A technician can repair it at once, while your computer is switched on, "
     "if you press one now and follow what he tells you."),
    (3, "Good afternoon, and congratulations. Dear", "You were drawn from among all customers of "
     "the last year, and have won a week for two in a hotel by the sea. All that remains is the "
     "booking fee. Press five to talk to our travel desk."),
)  # fmt: skip
_NAMES = ("Miller", "Okafor", "Smith", "Garcia", "Lindqvist", "Baker", "Novak", "Tanaka")
_NAMES += ("Robinson", "O'Brien", "Schneider", "Williams", "Rossi", "Chen", "Adams", "Dubois")
_GREETINGS = ("Hello?", "Yes, who is there?", "Good morning, this is the front desk.", "Hi.",
              "Hello, you are speaking with the office of Baker and sons, how can I help?",
              "Please leave a message after the tone.", "Speaking.")  # fmt: skip


def say(voice: str, text: str) -> Float32[np.ndarray, " n"]:
    """Returns a text as a voice speaks it."""
    program, _, name = voice.partition(":")
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "said.wav"
        spoken = {
            "flite": ["flite", "-voice", name, "-t", text, "-o", str(file)],
            "espeak-ng": ["espeak-ng", "-v", name, "-w", str(file), "--", text],
        }[program]
        subprocess.run(spoken, check=True, capture_output=True)
        samples = decode(file, sample_rate_hz=RATE_HZ).samples
    return samples / max(float(np.abs(samples).max()), 1e-6) * np.float32(0.5)


def messages(rng: np.random.Generator) -> Iterator[tuple[str, Float32[np.ndarray, " n"]]]:
    """Yields the name of each call's message (campaign or single) and what its caller says."""
    for number, (voice, before, after) in enumerate(_CAMPAIGNS):
        first = say(_VOICES[voice], before)
        last = say(_VOICES[voice], after)
        for _ in range(_CALLS):
            name = say(_VOICES[voice], str(rng.choice(_NAMES)))
            yield f"campaign{number}", np.concatenate([first, name, last])
    sentences = rng.permutation(np.array(distinct_sentences()))
    for number, some in enumerate(np.array_split(sentences, _SINGLES)):
        yield f"single{number}", say(_VOICES[number % len(_VOICES)], " ".join(some))


def distinct_sentences() -> list[str]:
    """Returns the texts of prompts, without those that share six words in a row."""
    seen: set[tuple[str, ...]] = set()
    found = []
    for one in read_table(PROMPTS):
        words = one.title.lower().split()
        runs = {tuple(words[first : first + 6]) for first in range(max(len(words) - 5, 1))}
        if len(one.title) > 25 and not runs & seen:
            seen |= runs
            found.append(one.title)
    return found


def make_calls(folder: pathlib.Path) -> None:
    """Writes the calls into a folder, each named by its message."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for number, (name, message) in enumerate(messages(rng)):
        voice = str(rng.choice(_ANSWERING))
        greeting = say(voice, str(rng.choice(_GREETINGS)))
        begin = round(rng.uniform(0.0, 0.25) * len(message)) if rng.random() < 0.3 else 0
        end = round(rng.uniform(0.75, 1.0) * len(message)) if rng.random() < 0.3 else len(message)
        pauses = [np.zeros(round(rng.uniform(0.1, 1.5) * RATE_HZ), np.float32) for _ in range(2)]
        opening = [greeting, pauses[1]] if begin == 0 else []  # a late recording lacks the greeting
        call = np.concatenate([pauses[0], *opening, message[begin:end]])
        heard = telephone(call, draw_telephone(rng, _LINE), sample_rate_hz=RATE_HZ)
        soundfile.write(folder / f"{name}_{number:03d}.wav", np.clip(heard, -1, 1), RATE_HZ)


def scores(groups: Sequence[Sequence[str]], calls: Sequence[str]) -> dict[str, Any]:
    """Returns pairwise precision and recall in percent of groups of calls, which are named by their
    message.
    """
    found = {pair for group in groups for pair in itertools.combinations(sorted(group), 2)}
    true = {
        pair
        for pair in itertools.combinations(sorted(calls), 2)
        if message_of(pair[0]) == message_of(pair[1])
    }
    wrong = collections.Counter(
        " and ".join(sorted({message_of(one) for one in pair})) for pair in found - true
    )
    return {
        "groups": len(groups),
        "sizes": [len(group) for group in groups],
        "precision": round(100 * len(found & true) / max(len(found), 1), 2),
        "recall": round(100 * len(found & true) / len(true), 2),
        "wrong": dict(wrong.most_common(10)),
    }


def message_of(call: str) -> str:
    """Returns the message of a call by its name."""
    return call.rpartition("_")[0]


def many_calls(reference: Reference, num: int, *, jitter: float) -> Reference:
    """Returns `num` calls made of a reference's: of other signs, or with noise of `jitter` times
    the rows' length.
    """
    rng = np.random.default_rng(1)
    calls = [reference.rows_of(track) for track in range(reference.num_tracks)]
    parts = []
    while len(parts) < num:
        signs = rng.choice(np.array([-1, 1], np.float32), size=calls[0].shape[1])
        for rows in calls[: num - len(parts)]:
            made = rows * signs
            if jitter:
                noise = rng.standard_normal(rows.shape).astype(np.float32)
                made = rows + noise * np.float32(jitter / np.sqrt(rows.shape[1]))
                made /= np.maximum(np.linalg.norm(made, axis=1, keepdims=True), 1e-6)
            parts.append((str(len(parts)), made))
    return make_reference(
        parts,
        hop_s=reference.hop_s,
        segment_s=reference.segment_s,
        query_phases=reference.query_phases,
    )


def measure(folder: pathlib.Path, args: argparse.Namespace) -> dict[str, Any]:
    """Returns the figures of the calls in a folder."""
    opened = opened_sources(
        [folder], keep=args.keep, model=args.model, report=lambda added, total: None
    )
    with opened as (database, embedder, num_failed):
        if not args.many:
            began = time.process_time()
            found = recurring_messages(database, embedder)
            seconds = time.process_time() - began
            groups = [[pathlib.Path(place.path).stem for place in one.places] for one in found]
            calls = [pathlib.Path(track.path).stem for track in database.tracks()]
            return {"failed": num_failed, "cpu_s": seconds} | scores(groups, calls)
        reference = open_reference(database, embedder)
        began = time.process_time()
        many = many_calls(reference, args.many, jitter=args.jitter)
        made = time.process_time()
        groups = recurring_tracks(many)
        seconds = {"index_s": made - began, "cpu_s": time.process_time() - made}
        sizes = [len(group) for group in groups]
        return seconds | {"calls": args.many, "rows": len(many.snapshot.vectors), "sizes": sizes}


def main() -> None:
    """Makes the calls where they are not there yet, and writes what was measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=pathlib.Path, required=True, help="a folder for the calls")
    parser.add_argument("--keep", type=pathlib.Path, help="a database for their fingerprints")
    parser.add_argument("--model", default="edge2")
    parser.add_argument("--many", type=int, default=0, metavar="N", help="time so many calls")
    parser.add_argument("--jitter", type=float, default=0.0)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    if not args.calls.exists():
        make_calls(args.calls)
    found = measure(args.calls, args)
    print(json.dumps(found, indent=1))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

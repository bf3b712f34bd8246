"""A radio programme with exact truth through `confp radio`, killed on its way.

    python benchmarks/radio_day.py MUSIC --voices SPEECH --hours 24 --kills 20 --out day.json
    python benchmarks/radio_day.py MUSIC --hours 0.6 --streams 8 --kills 4 --out streams.json

Clips are joined to tracks of two to four minutes. A programme plays them in random order, with
crossfades, speech and silence between some. Without `--streams` it is one file, heard faster than
real time; with it, as many stations, sent as MP3 over HTTP in real time, each at its own place.
`confp radio` is killed (SIGKILL) at random moments and started again. A logged play is right where
it overlaps a play of its track; a play of which two were logged is doubled.
"""

import argparse
import contextlib
import dataclasses
import http.server
import json
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import soundfile
import yaml
from jaxtyping import Float32

from confp_jax.audio.decode import decode
from confp_jax.library.clock import iso
from confp_jax.radio.air_log import read_events, seconds_of

RATE_HZ = 16_000
_CLIPS_A_TRACK = (4, 8)
_FADE_S = 3.0
_BREAK_SHARE = 0.3
_BREAK_S = (5.0, 20.0)
_MP3_BYTES_S = 12_000  # 96 kbit/s
_BEGAN_S = 1_700_000_000.0
Samples = Float32[np.ndarray, " n"]


@dataclasses.dataclass(frozen=True)
class Play:
    """A play of a track, in seconds from the programme's beginning."""

    track: str
    begin_s: float
    end_s: float


def make_tracks(
    music: pathlib.Path, folder: pathlib.Path, rng: np.random.Generator, most: int
) -> list[str]:
    """Writes tracks that are several clips long; returns their names."""
    clips = sorted(music.rglob("*.mp3"))
    clips = [clips[number] for number in rng.permutation(len(clips))]
    if len(clips) < _CLIPS_A_TRACK[1]:
        raise SystemExit(f"{music} holds {len(clips)} MP3 files; {_CLIPS_A_TRACK[1]} are needed")
    folder.mkdir()
    names: list[str] = []
    while len(clips) >= _CLIPS_A_TRACK[1] and len(names) < most:
        num = int(rng.integers(*_CLIPS_A_TRACK, endpoint=True))
        parts = [decode(clips.pop(), sample_rate_hz=RATE_HZ).samples for _ in range(num)]
        names.append(f"track-{len(names):03d}")
        levelled = [0.1 * part / (float(np.sqrt(np.mean(part**2))) + 1e-6) for part in parts]
        soundfile.write(
            folder / f"{names[-1]}.flac", np.clip(np.concatenate(levelled), -1, 1), RATE_HZ
        )
    return names


def write_programme(
    path: pathlib.Path,
    tracks: pathlib.Path,
    voices: Sequence[pathlib.Path],
    rng: np.random.Generator,
    length_s: float,
) -> list[Play]:
    """Writes a programme as FLAC; returns its truth."""
    truth: list[Play] = []
    fade = round(_FADE_S * RATE_HZ)
    ramp = np.sin(np.linspace(0, np.pi / 2, fade, dtype=np.float32))
    tail = np.zeros(fade, np.float32)  # of the track before, faded out
    at = 0
    with soundfile.SoundFile(path, "w", samplerate=RATE_HZ, channels=1) as file:
        for name in _endless(sorted(tracks.glob("*.flac")), rng):
            samples = soundfile.read(name, dtype="float32")[0]
            truth.append(Play(name.stem, at / RATE_HZ, (at + len(samples)) / RATE_HZ))
            samples[:fade] = samples[:fade] * ramp + tail
            tail = samples[-fade:] * ramp[::-1]
            file.write(samples[:-fade])
            at += len(samples) - fade
            if rng.random() < _BREAK_SHARE:
                spoken = np.concatenate([tail, _spoken(voices, rng)])
                file.write(spoken)
                at += len(spoken)
                tail = np.zeros(fade, np.float32)
            if at > length_s * RATE_HZ:
                file.write(tail)
                return truth
    return truth


def _endless(paths: Sequence[pathlib.Path], rng: np.random.Generator) -> Iterator[pathlib.Path]:
    while True:
        for number in rng.permutation(len(paths)):
            yield paths[number]


def _spoken(voices: Sequence[pathlib.Path], rng: np.random.Generator) -> Samples:
    """Returns speech, or silence."""
    num = round(rng.uniform(*_BREAK_S) * RATE_HZ)
    if not voices or rng.random() < 0.5:
        return np.zeros(num, np.float32)
    voice = voices[int(rng.integers(len(voices)))]
    return np.resize(decode(voice, sample_rate_hz=RATE_HZ).samples, num).astype(np.float32)


class Sender(http.server.ThreadingHTTPServer):
    """Sends each `/N` an MP3 file in real time, from where its programme is now."""

    daemon_threads = True

    def __init__(self, data: bytes, firsts_s: Sequence[float]):
        """Begins all programmes, each at its place in the file."""
        super().__init__(("127.0.0.1", 0), _Sending)
        self.data = data
        self.firsts_s = firsts_s
        self.began_s = time.time()

    @property
    def address(self) -> str:
        """Returns the address before `/N`."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Sending(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "audio/mpeg")
        self.end_headers()
        sender = cast(Sender, self.server)
        first_s = sender.firsts_s[int(self.path.strip("/"))] - sender.began_s
        sent = round((first_s + time.time()) * _MP3_BYTES_S)
        with contextlib.suppress(OSError):
            while sent < len(sender.data):
                due = round((first_s + time.time()) * _MP3_BYTES_S)
                self.wfile.write(sender.data[sent:due])
                sent = due
                time.sleep(0.2)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


class Radio:
    """`confp radio` as a process that is killed and started again; watches its memory."""

    def __init__(self, config: pathlib.Path):
        """Takes the stations' file."""
        self._config = config
        self._command = [sys.executable, "-m", "confp_jax.cli", "radio", str(config)]
        self._process: subprocess.Popen | None = None
        self.memory_mb: list[float] = []
        self.cpu_s = 0.0

    def start(self) -> None:
        """Starts it."""
        with open(self._config.with_suffix(".log"), "ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)

    def look(self) -> bool:
        """Notes its memory; returns whether it runs."""
        if self._process is None or self._process.poll() is not None:
            return False
        folder = pathlib.Path("/proc", str(self._process.pid))
        with contextlib.suppress(OSError, IndexError):
            text = (folder / "status").read_text().split("VmRSS:")[1]
            self.memory_mb.append(int(text.split()[0]) / 1024)
        with contextlib.suppress(OSError, IndexError):
            ticks = (folder / "stat").read_text().rpartition(")")[2].split()[11:13]
            self._used_s = sum(map(int, ticks)) / 100
        return True

    def end(self, how: signal.Signals) -> None:
        """Ends it by a signal."""
        if self._process:
            self._process.send_signal(how)
            self._process.wait()
            self.cpu_s += self._used_s


def score(truth: Sequence[Play], events: Sequence[dict[str, Any]], began_s: float) -> dict:
    """Returns how a station's log agrees with its programme."""
    plays = [event for event in events if event["event"] == "play"]
    spans = [
        (pathlib.Path(one["path"]).stem, seconds_of(one["at"]) - began_s,
         seconds_of(one["ended"]) - began_s)
        for one in plays
    ]  # fmt: skip
    owns = [
        [(b, e) for name, b, e in spans if name == play.track and b < play.end_s > play.begin_s < e]
        for play in truth
    ]
    right = sum(len(own) for own in owns)
    begins = [own[0][0] - play.begin_s for play, own in zip(truth, owns, strict=True) if own]
    ends = [own[-1][1] - play.end_s for play, own in zip(truth, owns, strict=True) if own]
    return {
        "plays": len(truth),
        "logged": len(plays),
        "lost": sum(not own for own in owns),
        "doubled": sum(len(own) > 1 for own in owns),
        "wrong": len(plays) - right,
        "begins_within_5_s": sum(abs(x) <= 5 for x in begins),
        "ends_within_5_s": sum(abs(x) <= 5 for x in ends),
        "played_s": round(sum(one["played_s"] for one in plays)),
        "true_s": round(sum(play.end_s - play.begin_s for play in truth)),
    }


def hear(
    radio: Radio, args: argparse.Namespace, rng: np.random.Generator, length_s: float | None
) -> float:
    """Hears to the end, killing on the way; returns the seconds that it took."""
    began_s = time.monotonic()
    kills_s = list(began_s + np.cumsum(args.kill_every * rng.uniform(0.5, 1.5, args.kills)))
    radio.start()
    while radio.look() and (length_s is None or time.monotonic() - began_s < length_s):
        if kills_s and time.monotonic() > kills_s[0]:
            kills_s.pop(0)
            radio.end(signal.SIGKILL)
            radio.start()
        time.sleep(1.0)
    radio.end(signal.SIGTERM)
    return time.monotonic() - began_s


def _config(folder: pathlib.Path, stations: list[dict[str, Any]]) -> pathlib.Path:
    path = folder / "stations.yaml"
    path.write_text(
        yaml.safe_dump({"database": "music.db", "log": "airplay", "stations": stations})
    )
    return path


def run(args: argparse.Namespace, folder: pathlib.Path) -> dict[str, Any]:
    """Makes everything, hears it, and compares."""
    rng = np.random.default_rng(args.seed)
    make_tracks(args.music, folder / "tracks", rng, args.tracks)
    voices = sorted(args.voices.rglob("*.ogg")) if args.voices else []
    day = folder / "day.flac"
    truth = write_programme(day, folder / "tracks", voices, rng, 3_600 * args.hours)
    add = [sys.executable, "-m", "confp_jax.cli", "add", str(folder / "music.db")]
    subprocess.run([*add, str(folder / "tracks")], check=True, stdout=subprocess.DEVNULL)
    print(f"{len(truth)} plays", flush=True)
    length_s = 3_600 * args.hours
    if args.streams:
        return _hear_streams(args, folder, truth, rng, length_s)
    station = {"name": "Day", "source": str(day), "begins": iso(_BEGAN_S)}
    radio = Radio(_config(folder, [station]))
    took_s = hear(radio, args, rng, None)
    return _result(radio, took_s) | score(truth, _events(folder, "Day"), _BEGAN_S)


def _hear_streams(
    args: argparse.Namespace,
    folder: pathlib.Path,
    truth: Sequence[Play],
    rng: np.random.Generator,
    length_s: float,
) -> dict[str, Any]:
    mp3 = folder / "day.mp3"
    encode = ["ffmpeg", "-v", "error", "-i", str(folder / "day.flac"), "-b:a", "96k", str(mp3)]
    subprocess.run(encode, check=True)
    firsts_s = rng.uniform(0, length_s / 2, args.streams).tolist()
    sender = Sender(mp3.read_bytes(), firsts_s)
    threading.Thread(target=sender.serve_forever, daemon=True).start()
    names = [f"Station {number}" for number in range(args.streams)]
    radio = Radio(
        _config(
            folder,
            [
                {"name": name, "source": f"{sender.address}/{number}"}
                for number, name in enumerate(names)
            ],
        )
    )
    took_s = hear(radio, args, rng, length_s / 2)
    totals: dict[str, int] = {}
    for name, first_s in zip(names, firsts_s, strict=True):
        whole = [
            play
            for play in truth
            if play.begin_s > first_s + 30 and play.end_s < first_s + took_s - 60
        ]
        found = score(whole, _events(folder, name), sender.began_s - first_s)
        totals = {key: totals.get(key, 0) + value for key, value in found.items()}
    return _result(radio, took_s) | totals


def _events(folder: pathlib.Path, station: str) -> list[dict[str, Any]]:
    files = sorted((folder / "airplay").glob("*.jsonl"))
    return [event for file in files for event in read_events(file) if event["station"] == station]


def _result(radio: Radio, took_s: float) -> dict[str, Any]:
    memory_mb = radio.memory_mb
    tenth = max(1, len(memory_mb) // 10)
    return {
        "took_s": round(took_s),
        "cpu_s": round(radio.cpu_s),
        "memory_mb_second_tenth": round(float(np.median(memory_mb[tenth : 2 * tenth]))),
        "memory_mb_last_tenth": round(float(np.median(memory_mb[-tenth:]))),
        "memory_mb_most": round(max(memory_mb)),
    }


def main() -> None:
    """Runs the benchmark and writes its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("music", type=pathlib.Path)
    parser.add_argument("--voices", type=pathlib.Path)
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--tracks", type=int, default=150, help="at most")
    parser.add_argument("--streams", type=int, default=0)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--kill-every", type=float, default=60.0, help="seconds, in the mean")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = run(args, pathlib.Path(folder))
    print(json.dumps(result, indent=1))
    args.out.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

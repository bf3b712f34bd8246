"""Distortion chains by audiomentations: the only place that touches the global random generators.

A draw depends on (seed, track id, replica number) alone: the same bytes on any machine, in any order, with any number of
workers.
"""

import dataclasses
import hashlib
import json
import pathlib
import random
from typing import Any

import audiomentations
import numpy as np
import soundfile
from jaxtyping import Float32

from confp_jax.audio.decode import DecodeError, decode, find_audio
from data_prep.config import ChainConfig, Draw
from data_prep.tracks import SourceError

_SILENT_RMS = 1e-4


@dataclasses.dataclass(frozen=True)
class Sounds:
    """Noise and impulse responses of one part (train or test), as 16 kHz wav files of the cache; relative names are drawn."""

    noise: tuple[str, ...] = ()
    impulse_responses: tuple[str, ...] = ()

    def identity(self) -> str:
        """Names and sizes as a hash: other sounds make other replicas."""
        files = [
            ("/".join(pathlib.PurePath(f).parts[-3:]), pathlib.Path(f).stat().st_size)
            for f in (*self.noise, *self.impulse_responses)
        ]
        return hashlib.sha256(json.dumps(files).encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Distorted:
    """What a chain made of a clip."""

    samples: Float32[np.ndarray, " n"]
    rate: float  # playback rate: the original's moment t is at t / rate
    draws: str  # JSON list of {transform, value...}


class Chain:
    """The transforms of a configuration, ready to be drawn from."""

    def __init__(self, config: ChainConfig, sounds: Sounds):
        if config.background.p and not sounds.noise:
            raise SourceError("the chain asks for background noise, but there is none; pass --config.noise_dir=FOLDER "
                              "(it holds train/ and test/), or --config.chain.background.p=0")  # fmt: skip
        if config.reverb_p and not sounds.impulse_responses:
            raise SourceError("the chain asks for impulse responses, but there are none; pass --config.ir_dir=FOLDER "
                              "(it holds train/ and test/), or --config.chain.reverb_p=0")  # fmt: skip
        self._transforms = [t for t in _transforms(config, sounds) if t.p > 0]

    def apply(self, samples: Float32[np.ndarray, " n"], *, sample_rate_hz: int, seed: tuple[int, ...]) -> Distorted:
        """Draws and applies the chain; the same seed gives the same bytes."""
        state = np.random.SeedSequence(seed).generate_state(2)
        random.seed(int(state[0]))
        np.random.seed(int(state[1]))
        rate, draws = 1.0, []
        for transform in self._transforms:
            samples = transform(samples, sample_rate_hz)
            if not transform.parameters["should_apply"]:
                continue
            drawn = _drawn(transform.parameters)
            draws.append({"transform": type(transform).__name__} | drawn)
            if isinstance(transform, audiomentations.TimeStretch):
                rate = float(drawn["rate"])
        return Distorted(np.asarray(samples, np.float32), rate, json.dumps(draws))


def prepare_sounds(noise_dir: str, ir_dir: str, part: str, *, cache: pathlib.Path, sample_rate_hz: int) -> Sounds:
    """Decodes the noise and impulse responses of `part` ("train" or "test") once, to mono wav at the working rate.

    Impulse responses are cut to begin at the direct sound, so that a reverberated replica is not late; silence is cut
    out of noise, and a silent file left out. Train and test come from different folders and never mix.

    Raises:
      SourceError: a folder was named that has no such part or no usable sound.
    """
    kinds = {"noise": noise_dir, "ir": ir_dir}
    found = {
        kind: _cached_sounds(pathlib.Path(folder), part, kind, cache, sample_rate_hz) if folder else ()
        for kind, folder in kinds.items()
    }
    return Sounds(found["noise"], found["ir"])


def _cached_sounds(folder: pathlib.Path, part: str, kind: str, cache: pathlib.Path, rate_hz: int) -> tuple[str, ...]:
    root = folder / part
    if not root.is_dir():
        raise SourceError(f"{root}: no such folder; {folder} must hold train/ and test/")
    names = []
    for path in find_audio([root]):
        relative = path.relative_to(root)
        target = cache / kind / part / relative.with_name(relative.name + ".wav")  # rain.ogg and rain.flac are two
        if not target.exists():
            try:
                samples = decode(path, sample_rate_hz=rate_hz).samples
            except DecodeError as error:
                raise SourceError(f"{error}, or remove it from {root}") from error
            samples = _from_direct_sound(samples) if kind == "ir" else _without_silence(samples, rate_hz)
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(target.name + ".part")
            soundfile.write(partial, samples, rate_hz, subtype="FLOAT", format="WAV")
            partial.replace(target)
        if soundfile.info(target).frames:
            names.append(str(target))
    if not names:
        raise SourceError(f"{root}: holds no sound that is not silent")
    return tuple(names)


def read_sound(path: str) -> Float32[np.ndarray, " n"]:
    """A sound of the cache."""
    return soundfile.read(path, dtype="float32")[0]


def _without_silence(samples: Float32[np.ndarray, " n"], rate_hz: int) -> Float32[np.ndarray, " m"]:
    """The noise without its silent stretches (ESC-50 pads with zeros): a part of it is mixed in, and must be heard."""
    block = rate_hz // 20
    blocks = samples[: len(samples) // block * block].reshape(-1, block)
    return blocks[np.sqrt(np.mean(np.square(blocks), axis=1)) > _SILENT_RMS].reshape(-1)


def _from_direct_sound(samples: Float32[np.ndarray, " n"]) -> Float32[np.ndarray, " m"]:
    """The impulse response from its first strong sample on; nothing if it is silent."""
    peak = np.abs(samples).max(initial=0.0)
    return samples[np.argmax(np.abs(samples) >= 0.5 * peak) :] if peak > _SILENT_RMS else samples[:0]


def _transforms(config: ChainConfig, sounds: Sounds) -> list[Any]:
    """In the order in which sound meets them: performance, room, surroundings, microphone."""
    a = audiomentations

    def draw(d: Draw, *, low: str, high: str) -> dict[str, Any]:
        return {"p": d.p, low: d.low, high: d.high}

    low_decay, high_decay = config.coloured_decay_db
    chain: list[Any] = []
    if config.stretch.p:
        chain.append(a.TimeStretch(leave_length_unchanged=False, **draw(config.stretch, low="min_rate", high="max_rate")))
    if config.pitch.p:
        chain.append(a.PitchShift(**draw(config.pitch, low="min_semitones", high="max_semitones")))
    if config.reverb_p:
        chain.append(a.ApplyImpulseResponse(list(sounds.impulse_responses), p=config.reverb_p))
    snr = {"low": "min_snr_db", "high": "max_snr_db"}
    if config.background.p:
        chain.append(a.AddBackgroundNoise(list(sounds.noise), **draw(config.background, **snr)))
    if config.coloured.p:
        chain.append(a.AddColorNoise(**draw(config.coloured, **snr), min_f_decay=low_decay, max_f_decay=high_decay))
    if config.tanh.p:
        chain.append(a.TanhDistortion(**draw(config.tanh, low="min_distortion", high="max_distortion")))
    if config.polarity_p:
        chain.append(a.PolarityInversion(p=config.polarity_p))
    return chain


def _drawn(parameters: dict[str, Any]) -> dict[str, Any]:
    """The drawn values as JSON; a sound is named by kind/part/name, not by this machine's path."""
    drawn: dict[str, Any] = {}
    for key, value in parameters.items():
        if key == "should_apply":
            continue
        if key.endswith("_path"):
            value = "/".join(pathlib.PurePath(value).parts[-3:])
        drawn[key] = float(value) if isinstance(value, np.floating) else value
    return drawn

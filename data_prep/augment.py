"""Distortion chains, most of them by audiomentations: the only place that touches the global
random generators.

A draw depends on (seed, track id, replica number) and the transform's name alone: the same bytes
on any machine, in any order, with any number of workers, and a transform more in the chain leaves
the others' draws as they are.
"""

import dataclasses
import functools
import json
import pathlib
import random
import zlib
from collections.abc import Callable
from typing import Any

import audiomentations
import numpy as np
from jaxtyping import Float32

from data_prep import transforms
from data_prep.config import ChainConfig, Draw
from data_prep.sounds import Sounds, read_sound
from data_prep.tracks import SourceError
from data_prep.transforms import Heard

_UNUSED = (
    "should_apply",
    "rms_db",
)  # audiomentations draws a level, and does not use it where an SNR is drawn
_SNR = {"low": "min_snr_db", "high": "max_snr_db"}


@dataclasses.dataclass(frozen=True)
class Distorted:
    """What a chain made of a clip."""

    samples: Float32[np.ndarray, " n"]
    tempo: float  # the original's moment t is at t / tempo
    draws: str  # JSON list of {transform, value...}


@dataclasses.dataclass(frozen=True)
class Step:
    """A transform, and how often it is applied."""

    name: str
    p: float
    apply: Callable[..., Heard]  # (samples, rng, sample_rate_hz=...)


class Chain:
    """The transforms of a configuration, ready to be drawn from."""

    def __init__(self, config: ChainConfig, sounds: Sounds):
        check_sources(
            config,
            noise=bool(sounds.noise),
            rooms=bool(sounds.impulse_responses),
            music=bool(sounds.music),
            speech=bool(sounds.speech),
        )
        self.steps = [step for step in _steps(config, sounds) if step.p > 0]

    def apply(
        self, samples: Float32[np.ndarray, " n"], *, sample_rate_hz: int, seed: tuple[int, ...]
    ) -> Distorted:
        """Draws and applies the chain; the same seed gives the same bytes."""
        tempo = 1.0
        draws = []
        for step in self.steps:
            rng = np.random.default_rng((*seed, zlib.crc32(step.name.encode())))
            if rng.random() >= step.p:
                continue
            heard = step.apply(samples, rng, sample_rate_hz=sample_rate_hz)
            samples = heard.samples
            draws.append({"transform": step.name} | _as_json(heard.draws))
            if step.name == "TimeStretch":
                tempo = float(heard.draws["rate"])
        return Distorted(np.asarray(samples, np.float32), tempo, json.dumps(draws))


def check_sources(
    config: ChainConfig, *, noise: bool, rooms: bool, music: bool = True, speech: bool = True
) -> None:
    """Checks whether there is what a chain draws from; `music`: other tracks to lay over one.

    Raises:
      SourceError: there is not; the message names the setting that gives it, or switches it off.
    """
    if (config.background.p or config.varying.p) and not noise:
        raise SourceError(
            "the chain asks for background noise, but there is none; pass "
            "--config.noise_dir=FOLDER, or --config.chain.background.p=0 and "
            "--config.chain.varying.p=0"
        )
    if config.reverb_p and not rooms:
        raise SourceError(
            "the chain asks for impulse responses, but there are none; pass "
            "--config.ir_dir=FOLDER, or --config.chain.reverb_p=0"
        )
    if config.overlay.p and not music:
        raise SourceError(
            "the chain lays other music over a track, but there is none; pass "
            "--config.chain.overlay.p=0"
        )
    if config.speech.p and not speech:
        raise SourceError(
            "the chain lays speech over a track, but there is none; pass "
            "--config.speech_dir=FOLDER of a query set, or --config.chain.speech.p=0"
        )
    if config.replay_p and not (noise and rooms):
        raise SourceError(
            "the chain asks for music from a loudspeaker, which needs noise and rooms; pass "
            "--config.noise_dir=FOLDER and --config.ir_dir=FOLDER, or --config.chain.replay_p=0"
        )


def _steps(config: ChainConfig, sounds: Sounds) -> list[Step]:
    """Returns the steps in the order in which sound meets them: performance, loudspeaker, room,
    surroundings, microphone, transmission.
    """
    varying = functools.partial(
        transforms.add_varying_noise, snr=config.varying, noises=sounds.noise, read=read_sound
    )
    low, high = config.coloured_decay_db
    coloured = _step(
        audiomentations.AddColorNoise, config.coloured, **_SNR, min_f_decay=low, max_f_decay=high
    )
    codecs = (("mp3", config.mp3), ("opus", config.opus), ("aac", config.aac))
    replay = functools.partial(
        transforms.replay_aloud, config=config.replay, sounds=sounds, read=read_sound
    )
    return [
        *_performance(config),
        Step("Replay", config.replay_p, replay),
        Step(
            "Speaker",
            config.speaker.p,
            functools.partial(transforms.limit_band, band=config.speaker),
        ),
        *_surroundings(config, sounds),
        Step("VaryingNoise", config.varying.p, varying),
        Step(
            "Overlay",
            config.overlay.p,
            functools.partial(transforms.add_music, snr=config.overlay, music=sounds.music),
        ),
        Step(
            "Speech",
            config.speech.p,
            functools.partial(transforms.add_music, snr=config.speech, music=sounds.speech),
        ),
        coloured,
        *_microphone(config),
        Step(
            "Telephone",
            config.telephone.p,
            functools.partial(transforms.limit_band, band=config.telephone),
        ),
        Step(
            "Call", config.call_p, functools.partial(transforms.telephone_call, config=config.call)
        ),
        Step(
            "Resample",
            config.resample.p,
            functools.partial(transforms.resample_there_and_back, rate=config.resample),
        ),
        *(
            Step(f"Codec {n}", d.p, functools.partial(transforms.pass_codec, codec=n, kbps=d))
            for n, d in codecs
        ),
    ]


def _performance(config: ChainConfig) -> list[Step]:
    stretch = config.stretch
    pitch = config.pitch
    return [
        _step(
            audiomentations.TimeStretch,
            stretch,
            low="min_rate",
            high="max_rate",
            leave_length_unchanged=False,
        ),
        _step(audiomentations.PitchShift, pitch, low="min_semitones", high="max_semitones"),
    ]


def _surroundings(config: ChainConfig, sounds: Sounds) -> list[Step]:
    steps = []
    if config.reverb_p:
        room = audiomentations.ApplyImpulseResponse(list(sounds.impulse_responses), p=1.0)
        steps.append(
            Step("ApplyImpulseResponse", config.reverb_p, functools.partial(_apply, transform=room))
        )
    if config.background.p:
        steps.append(
            _step(
                audiomentations.AddBackgroundNoise,
                config.background,
                **_SNR,
                sounds_path=list(sounds.noise),
            )
        )
    return steps


def _microphone(config: ChainConfig) -> list[Step]:
    polarity = functools.partial(_apply, transform=audiomentations.PolarityInversion(p=1.0))
    percent = Draw(config.clipping.p, round(config.clipping.low), round(config.clipping.high))
    low = "min_percentile_threshold"
    high = "max_percentile_threshold"
    return [
        _step(audiomentations.Gain, config.gain, low="min_gain_db", high="max_gain_db"),
        _step(
            audiomentations.TanhDistortion, config.tanh, low="min_distortion", high="max_distortion"
        ),
        _step(audiomentations.ClippingDistortion, percent, low=low, high=high),
        Step("PolarityInversion", config.polarity_p, polarity),
    ]


def _step(kind: type, draw: Draw, *, low: str, high: str, **arguments: Any) -> Step:
    """Returns an audiomentations transform whose one value is drawn between `low` and `high`, named
    as its arguments are.
    """
    if not draw.p:
        return Step(kind.__name__, 0.0, _apply)
    transform = kind(p=1.0, **{low: draw.low, high: draw.high}, **arguments)
    return Step(kind.__name__, draw.p, functools.partial(_apply, transform=transform))


def _apply(
    samples: Float32[np.ndarray, " n"],
    rng: np.random.Generator,
    *,
    sample_rate_hz: int,
    transform: Any,
) -> Heard:
    seeds = rng.integers(2**32, size=2)
    random.seed(int(seeds[0]))
    np.random.seed(int(seeds[1]))
    heard = transform(samples, sample_rate_hz)
    return Heard(
        heard, {key: value for key, value in transform.parameters.items() if key not in _UNUSED}
    )


def _as_json(draws: dict[str, Any]) -> dict[str, Any]:
    """Returns the drawn values as JSON; a sound is named by kind/part/name, not by this machine's
    path.
    """

    def name(path: str) -> str:
        return "/".join(pathlib.PurePath(path).parts[-3:])

    found: dict[str, Any] = {}
    for key, value in draws.items():
        if key.endswith("_path"):
            value = name(value)
        elif key.endswith("_paths"):
            value = [name(path) for path in value]
        found[key] = value.item() if isinstance(value, np.generic) else value
    return found

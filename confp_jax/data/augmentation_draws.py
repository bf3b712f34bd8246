"""What is drawn for a replica, as numbers: the host and a device make the same sound of them.

Every draw comes from the element's own Generator, and none depends on the audio.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64

from confp_jax.config import MixConfig
from confp_jax.data.replay import ReplayConfig, draw_replay

SEMITONE_STEPS = 8  # pitch is drawn in eighths of a semitone: as many mel filterbanks are kept
SPEED_STEPS = (
    1 << 14
)  # tempo is drawn in so many parts of one, so that a place in the audio is a whole number of them
NO_NOISE = NO_ROOM = -1
SYNTHETIC_ROOM = -2
SYNTHETIC_TAIL_S = (0.15, 1.5)  # to -60 dB
_SEEDS = 1 << 24  # as float32 holds them


class PitchAndTempo(NamedTuple):
    """How a crop is played: `tempo` 1.1 is a tenth faster; `pitch` 1.1 is a tenth higher than it
    was recorded.
    """

    tempo: float = 1.0
    pitch: float = 1.0

    @property
    def mel_steps(self) -> int:
        """Returns what the mel filterbank has to shift, since reading samples faster by `tempo` has
        raised the pitch by as much.
        """
        return round(math.log2(self.pitch / self.tempo) * 12 * SEMITONE_STEPS)


class MixParameters(NamedTuple):
    """All that is drawn for one replica. Every field is a number that float32 holds: a batch is one
    array, [B, fields].
    """

    seed: int = 0  # of the samples of a synthetic room and of coloured noise
    # samples of music that lie before the window: fewer than `Mixer.lead_samples` where a track
    # begins
    lead: int = 0
    tempo: float = 1.0
    mel_steps: int = 0  # by which the mel filterbank is shifted
    room: int = NO_ROOM  # number of a measured room, or SYNTHETIC_ROOM
    is_sudden: int = 0  # the music begins with the window
    room_speed: float = 1.0
    room_decay_db: float = 0.0  # a second
    tail_s: float = SYNTHETIC_TAIL_S[0]  # these four are of a synthetic room
    tail_damping: float = 0.0
    gap_s: float = 0.0  # between the direct sound and the tail
    direct_db: float = 0.0  # the direct sound over the whole tail
    noise: int = NO_NOISE  # number of a recorded noise
    noise_start: int = 0
    noise_snr_db: float = 0.0
    second_noise: int = NO_NOISE
    second_start: int = 0
    second_snr_db: float = 0.0
    coloured_snr_db: float = math.inf
    coloured_decay_db: float = 0.0  # per octave
    tanh_drive: float = 0.0  # 0: none
    tilt_db: float = 0.0  # per octave
    low_cut_hz: float = 0.0  # 0: no band limits
    high_cut_hz: float = 0.0
    # these are of a replay (`data/replay.py`), named as the fields of `ReplayDraw` are
    is_replayed: int = 0
    drive: float = 0.0
    speaker_low_hz: float = 30.0
    speaker_slope_db: float = 0.0
    speaker_uneven_db: float = 0.0
    dull_hz: float = 0.0
    dull_slope_db: float = 0.0
    ambience_snr_db: float = math.inf
    ambience_tilt_db: float = 0.0
    microphone_low_hz: float = 30.0
    microphone_slope_db: float = 0.0
    microphone_uneven_db: float = 0.0
    hiss_snr_db: float = math.inf
    swell_db: float = 0.0
    gain_strength: float = 0.0
    clip_level: float = 0.0
    suppression: float = 0.0
    # another track over it, the number of its clip and where in it; infinite: none
    overlay: int = 0
    overlay_start: int = 0
    overlay_snr_db: float = math.inf

    @property
    def has_room(self) -> bool:
        """Returns whether there is a room."""
        return self.room != NO_ROOM

    @property
    def recorded_noises(self) -> tuple[tuple[int, int, float], ...]:
        """Number, start and SNR in dB of each."""
        first = self.noise, self.noise_start, self.noise_snr_db
        return first, (self.second_noise, self.second_start, self.second_snr_db)


def draw_pitch_and_tempo(rng: np.random.Generator, config: MixConfig) -> PitchAndTempo:
    """Tempo and pitch of a track's crops: each in its range, or both together as a turntable
    does.
    """
    tempo = _draw_speed(rng, config.tempo) if rng.random() < config.tempo_p else 1.0
    pitch = (
        2 ** (rng.uniform(*config.pitch_semitones) / 12) if rng.random() < config.pitch_p else 1.0
    )
    together = tempo != 1.0 and rng.random() < config.turntable
    return PitchAndTempo(tempo, tempo if together else pitch)


def draw_mix(
    rng: np.random.Generator,
    config: MixConfig,
    played: PitchAndTempo,
    *,
    num_samples: int,
    noise_lengths: Int64[np.ndarray, " noises"],
    num_rooms: int,
    music_lengths: Int64[np.ndarray, " clips"],
) -> MixParameters:
    """Draws what is mixed into a window: another track, a room, at most two recorded noises,
    coloured noise, overload, colour; or another track and a replay.

    Args:
      rng: the generator that everything is drawn from.
      config: the probabilities and ranges.
      played: pitch and tempo of the track's crops.
      num_samples: of the window.
      noise_lengths: samples of each recorded noise.
      num_rooms: how many measured rooms there are.
      music_lengths: samples of each clip that may lie over the window.
    """
    drawn: dict[str, Any] = {
        "seed": int(rng.integers(_SEEDS)),
        "tempo": played.tempo,
        "mel_steps": played.mel_steps,
    }
    if config.overlay_p and rng.random() < config.overlay_p:
        drawn["overlay"], drawn["overlay_start"] = _draw_noise(rng, num_samples, music_lengths)
        drawn["overlay_snr_db"] = rng.uniform(*config.overlay_snr_db)
    if config.replay_p and rng.random() < config.replay_p:
        drawn |= _draw_replayed(rng, config, num_samples, noise_lengths, num_rooms)
        return MixParameters(**drawn)
    if rng.random() < config.room_p:
        drawn |= _draw_room(rng, config, num_rooms)
    for name, probability in (("noise", config.noise_p), ("second", config.second_noise_p)):
        if len(noise_lengths) and rng.random() < probability:
            number, start = _draw_noise(rng, num_samples, noise_lengths)
            drawn |= {
                "noise" if name == "noise" else "second_noise": number,
                f"{name}_start": start,
            }
            drawn[f"{name}_snr_db"] = rng.uniform(*config.noise_snr_db)
    if rng.random() < config.coloured_p:
        drawn["coloured_decay_db"] = rng.uniform(*config.coloured_decay_db)
        drawn["coloured_snr_db"] = rng.uniform(*config.coloured_snr_db)
    if rng.random() < config.tanh_p:
        drawn["tanh_drive"] = rng.uniform(*config.tanh_drive)
    if rng.random() < config.colour_p:
        drawn["tilt_db"] = rng.uniform(*config.tilt_db)
        if rng.random() < 0.5:
            drawn |= {
                "low_cut_hz": rng.uniform(*config.low_cut_hz),
                "high_cut_hz": rng.uniform(*config.high_cut_hz),
            }
    return MixParameters(**drawn)


def _draw_replayed(
    rng: np.random.Generator,
    config: MixConfig,
    num_samples: int,
    noise_lengths: Int64[np.ndarray, " noises"],
    num_rooms: int,
) -> dict[str, Any]:
    """Returns a replay, with a room and a recorded noise of this dataset."""
    drawn: dict[str, Any] = draw_replay(rng, ReplayConfig())._asdict()
    del drawn["seed"]  # the replica's own
    if drawn.pop("has_room"):
        drawn |= _draw_room(rng, config, num_rooms)
    if not math.isfinite(drawn["noise_snr_db"]) or not len(noise_lengths):
        del drawn["noise_snr_db"]
    else:
        drawn["noise"], drawn["noise_start"] = _draw_noise(rng, num_samples, noise_lengths)
    return drawn | {"is_replayed": 1}


def _draw_noise(
    rng: np.random.Generator, num_samples: int, noise_lengths: Int64[np.ndarray, " noises"]
) -> tuple[int, int]:
    """Returns the number of a noise, and where in it."""
    number = int(rng.integers(len(noise_lengths)))
    length = int(noise_lengths[number])
    start = rng.integers(length - num_samples + 1 if length >= num_samples else length)
    return number, int(start)


def mel_steps_range(config: MixConfig) -> tuple[int, int]:
    """Returns the least and the greatest `mel_steps` that can be drawn."""
    octaves = [0.0, 0.0]
    if config.pitch_p:
        octaves = [
            min(0.0, config.pitch_semitones[0] / 12),
            max(0.0, config.pitch_semitones[1] / 12),
        ]
    if config.tempo_p:
        slowest, fastest = config.tempo
        octaves = [
            octaves[0] - max(0.0, math.log2(fastest)),
            octaves[1] - min(0.0, math.log2(slowest)),
        ]
    # A step more on either side: the tempo is rounded too.
    return math.floor(octaves[0] * 12 * SEMITONE_STEPS) - 1, math.ceil(
        octaves[1] * 12 * SEMITONE_STEPS
    ) + 1


def _draw_room(rng: np.random.Generator, config: MixConfig, num_rooms: int) -> dict[str, Any]:
    drawn: dict[str, Any] = {"is_sudden": int(rng.random() < config.sudden_p)}
    if num_rooms and rng.random() >= config.synthetic_rooms:
        drawn |= {
            "room": int(rng.integers(num_rooms)),
            "room_speed": _draw_speed(rng, config.room_speed),
        }
        return drawn | {"room_decay_db": rng.uniform(*config.room_decay_db)}
    drawn |= {"room": SYNTHETIC_ROOM, "tail_s": math.exp(rng.uniform(*np.log(SYNTHETIC_TAIL_S)))}
    drawn |= {"tail_damping": rng.uniform(0.0, 0.7), "gap_s": rng.uniform(0.001, 0.02)}
    return drawn | {"direct_db": rng.uniform(-6.0, 12.0)}


def _draw_speed(rng: np.random.Generator, between: tuple[float, float]) -> float:
    """Log-uniform."""
    return round(math.exp(rng.uniform(*np.log(between))) * SPEED_STEPS) / SPEED_STEPS

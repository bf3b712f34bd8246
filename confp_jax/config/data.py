"""Which data a run is trained on, and how pairs are made of it."""

import dataclasses
from typing import Literal

from confp_jax.config.checks import check_positive
from confp_jax.typed_config import ConfigError


@dataclasses.dataclass(frozen=True)
class MixConfig:
    """What `data/mixing.py` draws for every replica, on top of the stored distortion; probabilities
    of 0 switch it off.
    """

    clean_p: float = 0.0  # start from the clean clip instead of a stored replica
    tempo_p: float = 0.0  # probability of another tempo
    tempo: tuple[float, float] = (0.7, 1.35)  # 1 is the original's; log-uniform
    turntable: float = 0.3  # share of these whose pitch follows the tempo
    pitch_p: float = 0.0  # probability of another pitch
    pitch_semitones: tuple[float, float] = (-2.0, 2.0)  # its change
    room_p: float = 0.0  # probability of a room
    synthetic_rooms: float = 0.5  # share of the rooms; the others are measured
    room_speed: tuple[float, float] = (
        1.0,
        1.0,
    )  # a measured room played faster is a smaller one; log-uniform
    room_decay_db: tuple[float, float] = (
        0.0,
        0.0,
    )  # by which a measured room decays more in a second
    lead_s: float = 1.0  # of music before the window, whose tail reaches into it
    sudden_p: float = 0.5  # share of the rooms in which the music begins with the window
    noise_p: float = 0.0  # probability of a recorded noise
    second_noise_p: float = 0.0  # probability of another one, where there is one
    noise_snr_db: tuple[float, float] = (-4.0, 20.0)  # signal to noise
    coloured_p: float = 0.0  # probability of coloured noise
    coloured_snr_db: tuple[float, float] = (-3.0, 20.0)  # signal to noise
    coloured_decay_db: tuple[float, float] = (-6.0, 6.0)  # per octave
    tanh_p: float = 0.0  # probability of overload
    tanh_drive: tuple[float, float] = (0.5, 4.0)  # amplitude in units of the RMS before tanh
    colour_p: float = 0.0  # probability of a tilt with band limits
    tilt_db: tuple[float, float] = (-4.0, 4.0)  # per octave
    low_cut_hz: tuple[float, float] = (50.0, 500.0)  # lower band limit
    high_cut_hz: tuple[float, float] = (2500.0, 8000.0)  # upper band limit
    # probability of a loudspeaker, a room and a microphone (`data/replay.py`) instead of all that
    # is mixed in above, but for tempo and pitch
    replay_p: float = 0.0
    # probability of another track of the set over it, before all else
    overlay_p: float = 0.0
    overlay_snr_db: tuple[float, float] = (-6.0, 6.0)  # of the music over the other track

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, tuple):
                if not value[0] <= value[1]:
                    raise ConfigError(
                        f"data.mix.{name}={value}: expected (low, high) with low <= high"
                    )
            elif name != "lead_s" and not 0 <= value <= 1:
                raise ConfigError(f"data.mix.{name}={value} must lie in [0, 1]")
        if self.lead_s < 0 or self.tempo[0] <= 0 or self.room_speed[0] <= 0:
            raise ConfigError(
                "data.mix.lead_s must not be negative, tempo and room_speed must be positive"
            )

    @property
    def is_on(self) -> bool:
        """Returns whether anything is drawn at all."""
        probabilities = (
            self.tempo_p,
            self.pitch_p,
            self.room_p,
            self.noise_p,
            self.coloured_p,
            self.tanh_p,
            self.colour_p,
            self.replay_p,
            self.overlay_p,
        )
        return any(probabilities)

    @property
    def warps_mel(self) -> bool:
        """Returns whether mel power is what is changed, by a shifted filterbank, a colour or noise
        suppression.
        """
        return bool(self.tempo_p or self.pitch_p or self.colour_p or self.replay_p)

    @property
    def has_rooms(self) -> bool:
        """Returns whether rooms are drawn."""
        return bool(self.room_p or self.replay_p)

    @property
    def has_noise(self) -> bool:
        """Returns whether recorded noises are drawn."""
        return bool(self.noise_p or self.second_noise_p or self.replay_p)

    def lead_samples(self, sample_rate_hz: int) -> int:
        """Returns samples before a window that its replica is made of: none without rooms."""
        return round(self.lead_s * sample_rate_hz) if self.has_rooms else 0


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which shards, and how a pair is cut from them."""

    dir: str = ""  # the prepared dataset: the folder that holds dataset_info.json
    split: str = "training"  # the split that is trained on
    # FMA's, of a set that holds more, so that one preparation serves several models; "": all tracks
    subset: Literal["", "small", "medium", "large", "full"] = ""
    batch_size: int = 64  # pairs; paper
    crops_per_track: int = (
        1  # 2 and more: neighbours of one track become each other's hard negatives
    )
    crop_spacing_s: tuple[float, float] = (0.3, 3.75)  # distance of such neighbours
    tracks_per_album: int = (
        1  # 2 and more: so many of an album stand together in a batch, hard negatives as well
    )
    # groups of shards, from which every batch draws evenly: a host needs only its own groups on its
    # disk where the number of hosts divides this one
    num_shares: int = 1
    shift_alpha: float = 8.0  # time shift of the replica: Beta(8, 2) x 150 ms, either way
    shift_beta: float = 2.0  # the second parameter of that distribution
    max_shift_s: float = 0.15  # the largest time shift
    short_p: float = (
        0.0  # share of the replicas that show only a part, so that shorter queries work
    )
    short_s: tuple[float, float] = (1.0, 2.75)  # of so many seconds
    residency: Literal["host", "device"] = (
        "host"  # device: all audio is loaded there once, the host draws only where to cut
    )
    mel_on: Literal["host", "device"] = (
        "device"  # host: scipy's FFT in the input pipeline, 4x faster on a CPU
    )
    num_workers: int = 0  # Grain worker processes; 0 reads on threads of this process
    mix: MixConfig = MixConfig()

    def __post_init__(self) -> None:
        check_positive(
            self, "data", "batch_size", "crops_per_track", "tracks_per_album", "num_shares"
        )
        if self.num_shares > 1 and self.tracks_per_album > 1:
            raise ConfigError(
                "data.tracks_per_album=2 and more needs all shards on every host: set "
                "data.num_shares=1"
            )
        if self.residency == "device" and self.mel_on == "host":
            raise ConfigError(
                "data.residency=device keeps the audio where mel power is made: set "
                "data.mel_on=device"
            )
        if self.mix.warps_mel and self.mel_on != "host" and self.residency != "device":
            raise ConfigError(
                "data.mix.tempo_p, pitch_p, colour_p and replay_p work on mel power: set "
                "data.mel_on=host, data.residency=device, or them to 0"
            )

    def check_divides(self, batch_size: int) -> None:
        """Checks whether a batch of so many pairs can be made of this data.

        Raises:
          ConfigError: it is no multiple of what comes from one track, or from the shares.
        """
        num_tracks, rest = divmod(batch_size, self.crops_per_track)
        if rest:
            raise ConfigError(
                f"data.batch_size={batch_size} (or that of a phase) is no multiple of "
                f"data.crops_per_track={self.crops_per_track}"
            )
        if num_tracks % self.num_shares:
            raise ConfigError(
                f"a batch of {num_tracks} tracks does not divide into "
                f"data.num_shares={self.num_shares}; set data.batch_size to a multiple, "
                "in phases as well"
            )

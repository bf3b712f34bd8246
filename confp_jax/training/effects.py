"""Settings that were asked for and do nothing: refused, or said before the run begins."""

from collections.abc import Collection

from confp_jax.config import TrainConfig
from confp_jax.typed_config import ConfigError

_PHASE_FIELDS = ("num_epochs", "optimizer.learning_rate", "data.batch_size")


def check_effects(config: TrainConfig, overridden: Collection[str]) -> list[str]:
    """Returns a line for each field that was set and changes nothing, with what it needs.

    Raises:
      ConfigError: epochs, learning rate or batch were set where `phases` has its own.
    """
    without = [name for name in _PHASE_FIELDS if config.phases and name in overridden]
    if without:
        raise ConfigError(
            f"--config.{without[0]} has no effect: phases={config.phases} has its own (epochs, "
            "learning rate, pairs a batch); change --config.phases, or set --config.phases='()'"
        )
    return [
        f"--config.{name} has no effect: {needed}"
        for name in sorted(overridden)
        for group, needed in _without_effect(config).items()
        if (name == group or name.startswith(group + ".")) and name != "validation.every_steps"
    ]


def _without_effect(config: TrainConfig) -> dict[str, str]:
    """Fields, or groups of them, that do nothing in this configuration; what they need."""
    data = config.data
    mix = config.data.mix
    masks = config.spec_augment
    uses = {
        "data.crop_spacing_s": (data.crops_per_track > 1, "data.crops_per_track is 1"),
        "data.short_s": (data.short_p > 0, "data.short_p is 0"),
        "data.num_workers": (data.residency == "host", "data.residency is device"),
        "data.shift_alpha": (data.max_shift_s > 0, "data.max_shift_s is 0"),
        "data.shift_beta": (data.max_shift_s > 0, "data.max_shift_s is 0"),
        "optimizer.final_fraction": (
            config.optimizer.schedule == "cosine",
            "optimizer.schedule is constant",
        ),
        "spec_augment.max_mels": (
            masks.num_frequency_masks > 0,
            "spec_augment.num_frequency_masks is 0",
        ),
        "spec_augment.max_frames": (masks.num_time_masks > 0, "spec_augment.num_time_masks is 0"),
        "validation": (config.validation.every_steps > 0, "validation.every_steps is 0"),
    }
    for probability, names in {
        "tempo_p": ("tempo", "turntable"),
        "pitch_p": ("pitch_semitones",),
        "coloured_p": ("coloured_snr_db", "coloured_decay_db"),
        "tanh_p": ("tanh_drive",),
        "colour_p": ("tilt_db", "low_cut_hz", "high_cut_hz"),
    }.items():
        is_used = getattr(mix, probability) > 0
        uses |= {f"data.mix.{n}": (is_used, f"data.mix.{probability} is 0") for n in names}
    has_noise = mix.noise_p > 0 or mix.second_noise_p > 0
    uses["data.mix.noise_snr_db"] = (has_noise, "data.mix.noise_p is 0")
    for name in ("synthetic_rooms", "room_speed", "room_decay_db", "lead_s", "sudden_p"):
        uses[f"data.mix.{name}"] = (mix.has_rooms, "data.mix.room_p and replay_p are 0")
    return {name: needed for name, (is_used, needed) in uses.items() if not is_used}

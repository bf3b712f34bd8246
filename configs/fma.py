"""The paper's three models, and two of ours.

    python -m confp_jax.training.train --config=configs/fma.py:small \\
        --config.data.dir=prepared/fma --workdir=runs/small

small, medium, large: the paper's Table 1, each on its own subset of FMA, with the decisions of
docs/research/paper.md; trained on stored replicas. small_online and so on: the same, the paper's
transforms drawn new for every pair of every batch from the clean clips (the paper augments each
batch; 4 stored replicas are heard 25 times each in 100 epochs). edge: ours, for CPUs, with 8 frames
a token and 4 pooled parts. tiny: for tests and the quickstart, not for use.

This file names what differs from the defaults in confp_jax/config; every field of them can be set
on the command line. What each setting is worth is in docs/research/experiments.md; the runs that
made the shipped weights are in the model cards, confp_jax/pretrained/*/README.md and
edge/RECIPE.md.
"""

from ml_collections import ConfigDict

from confp_jax.config import TrainConfig
from confp_jax.typed_config import default_values

_MODELS = {
    #         dim  layers heads mels  frames/token  pool
    "small": (256, 2, 4, 80, 1, 1),  # 1,510,272 parameters
    "medium": (512, 3, 8, 80, 1, 1),  # 8,802,432
    "large": (768, 4, 12, 96, 1, 1),  # 26,214,272
    "edge": (256, 3, 4, 80, 8, 4),  # 2,480,256
    "tiny": (64, 1, 4, 40, 8, 2),
}

_PAPER = ("small", "medium", "large")
_NOT_TRAINED = ("encoder.projection", "audio.context_s")  # of training/fit_projection.py


def get_config(variant: str = "small") -> ConfigDict:
    """`variant`: small, medium, large (or these with _online), edge or tiny."""
    model = variant.removesuffix("_online")
    if model not in _MODELS or (model != variant and model not in _PAPER):
        known = (*_MODELS, *(f"{name}_online" for name in _PAPER))
        raise ValueError(f"unknown model {variant!r}; known: {', '.join(known)}")
    config = ConfigDict(default_values(TrainConfig, without=_NOT_TRAINED)).lock()
    config.name = model
    _set_sizes(config, *_MODELS[model])
    if model != "small":
        config.temperature = 0.05  # paper
        config.optimizer.learning_rate = 2e-4  # paper
    if model in _PAPER:
        config.data.subset = model
    if model == "large":  # batches that grow; docs/research/paper.md has the start values
        config.phases = ((40, 2e-4, 64), (30, 1e-4, 128), (20, 5e-5, 256), (10, 2.5e-5, 512))
    if model != variant:
        _draw_as_the_paper(config)
    if model in ("edge", "tiny"):
        _train_shortly(config)
    if model == "edge":
        _train_as_shipped(config)
    if model == "tiny":
        config.optimizer.warmup_steps = 10
        config.data.batch_size = 16
    return config


def _set_sizes(
    config: ConfigDict,
    dim: int,
    num_layers: int,
    num_heads: int,
    num_mels: int,
    frames_per_token: int,
    pool_segments: int,
) -> None:
    config.encoder.update(
        {
            "dim": dim,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "frames_per_token": frames_per_token,
            "pool_segments": pool_segments,
        }
    )
    config.mel.num_mels = num_mels
    config.spec_augment.max_mels = num_mels // 8


def _draw_as_the_paper(config: ConfigDict) -> None:
    """The paper's transforms at the start values of docs/research/paper.md, new for every pair.

    Polarity is left out: power does not change with it.
    """
    config.data.mel_on = "host"  # pitch and stretch work on mel power; or residency=device
    config.data.mix.update(
        {
            "clean_p": 1.0,
            "tempo_p": 0.4,
            "tempo": (0.7, 1.3),
            "turntable": 0.0,
            "pitch_p": 0.3,
            "room_p": 0.4,
            "synthetic_rooms": 0.0,
            "noise_p": 0.6,
            "noise_snr_db": (0.0, 20.0),
            "coloured_p": 0.25,
            "coloured_snr_db": (0.0, 20.0),
            "tanh_p": 0.15,
        }
    )


def _train_as_shipped(config: ConfigDict) -> None:
    """Sets what the last stages of the shipped `edge` were trained with; the reasons, and what each
    was worth: in its RECIPE.md.
    """
    config.mel.fmax_hz = 4_000.0
    config.spec_augment.update(
        {"num_frequency_masks": 1, "max_mels": 8, "num_time_masks": 1, "max_frames": 30}
    )
    config.data.short_p = 0.25
    config.data.mix.update({"noise_snr_db": (-5.0, 17.0), "tempo_p": 0.45, "tempo": (0.66, 1.38)})
    rooms = {
        "room_p": 0.7,
        "lead_s": 3.0,
        "sudden_p": 0.2,
        "room_speed": (0.8, 1.25),
        "room_decay_db": (0.0, 20.0),
    }
    config.data.mix.update(rooms)


def _train_shortly(config: ConfigDict) -> None:
    """Sets what short runs on little data need, all distortion drawn online:
    docs/research/experiments.md, "Two prototypes".
    """
    config.encoder.dropout = 0.0
    config.optimizer.update(
        {
            "learning_rate": 1.2e-3,
            "schedule": "cosine",
            "warmup_steps": 100,
            "decoupled": True,
            "weight_decay": 0.01,
        }
    )
    config.optimizer.clip_norm = 1.0
    config.optimizer.average_decay = 0.998
    config.encoder.conv_norm = "layer"
    config.data.update({"crops_per_track": 2, "mel_on": "host"})
    config.data.mix.update(
        {
            "clean_p": 0.5,
            "tempo_p": 0.4,
            "pitch_p": 0.35,
            "room_p": 0.6,
            "synthetic_rooms": 0.25,
            "tanh_p": 0.15,
            "colour_p": 0.3,
        }
    )
    config.data.mix.update({"noise_p": 0.85, "second_noise_p": 0.3, "coloured_p": 0.2})
    config.num_epochs = 400

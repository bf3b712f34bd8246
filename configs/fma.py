"""The paper's three models, and two of ours.

    python -m confp_jax.training.train --config=configs/fma.py:small \\
        --config.data.dir=prepared/fma --workdir=runs/small

small, medium, large: the paper's Table 1, each on its own subset of FMA, with the decisions of
docs/research/paper.md; trained on stored replicas. small_online and so on: the same, the paper's
transforms drawn new for every pair of every batch from the clean clips (the paper augments each
batch; 4 stored replicas are heard 25 times each in 100 epochs). edge: ours, for CPUs, with 8 frames
a token and 4 pooled parts. tiny: for tests and the quickstart, not for use.

What each setting is worth is in docs/research/experiments.md; the runs that made the shipped
weights are in the model cards, confp_jax/pretrained/*/README.md and edge/RECIPE.md.
"""

from typing import Any

from ml_collections import ConfigDict

_MODELS = {
    #         dim  layers heads mels  frames/token  pool
    "small": (256, 2, 4, 80, 1, 1),  # 1,510,272 parameters
    "medium": (512, 3, 8, 80, 1, 1),  # 8,802,432
    "large": (768, 4, 12, 96, 1, 1),  # 26,214,272
    "edge": (256, 3, 4, 80, 8, 4),  # 2,480,256
    "tiny": (64, 1, 4, 40, 8, 2),
}


_PAPER = ("small", "medium", "large")


def get_config(variant: str = "small") -> ConfigDict:
    """`variant`: small, medium, large (or these with _online), edge or tiny."""
    model = variant.removesuffix("_online")
    if model not in _MODELS or (model != variant and model not in _PAPER):
        known = (*_MODELS, *(f"{name}_online" for name in _PAPER))
        raise ValueError(f"unknown model {variant!r}; known: {', '.join(known)}")
    mels = _MODELS[model][3]
    config = ConfigDict(
        {
            "name": model,
            # of weights, order, crops and distortion; set another in a run that continues one on
            # the same data
            "seed": 0,
            "num_epochs": 100,  # paper
            "temperature": 0.07 if model == "small" else 0.05,  # paper
            # a shipped model ("edge") or a checkpoint folder: its encoder is fine-tuned
            "init_from": "",
            # the same; its fingerprints of the clean anchors are learned beside NT-Xent
            "teacher": "",
            # while fine-tuning: BatchNorm keeps the statistics of init_from
            "freeze_statistics": False,
            "log_every_steps": 20,
            # (epochs, learning rate, pairs a batch) one after another, instead of the three fields
            # of that meaning; docs/research/paper.md has the start values
            "phases": ((40, 2e-4, 64), (30, 1e-4, 128), (20, 5e-5, 256), (10, 2.5e-5, 512))
            if model == "large"
            else (),
            # parts that a batch is encoded in (GradCache): large batches on small devices;
            # BatchNorm: by part
            "microbatches": 1,
            # blocks computed again in the backward pass: less memory, a third more work
            "rematerialise": False,
            "compute_dtype": "auto",  # bfloat16 on accelerators, float32 on a CPU
            "audio": {"sample_rate_hz": 16_000, "segment_s": 3.0},  # paper
            "mel": _mel(mels),
            "encoder": _encoder(model),
            "spec_augment": _spec_augment(mels),
            "optimizer": _optimizer(1e-4 if model == "small" else 2e-4),  # paper
            "data": _data() | {"subset": model if model in _PAPER else "", "mix": _mix()},
            "validation": _validation(),
            "checkpoint": {"every_steps": 500, "num_kept": 3},
        }
    )
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


def _mel(num_mels: int) -> dict[str, Any]:
    """The features."""
    return {
        "fft_samples": 1024,  # paper
        "hop_samples": 128,  # paper
        "num_mels": num_mels,  # paper
        "fmin_hz": 50.0,  # below is hum
        "fmax_hz": 8_000.0,
        "scale": "slaney",
        "floor": 1e-6,  # of the window's mean power
    }


def _encoder(model: str) -> dict[str, Any]:
    """The sizes of its conformer."""
    dim, layers, heads, _, frames_per_token, pool_segments = _MODELS[model]
    return {
        "dim": dim,
        "num_layers": layers,
        "num_heads": heads,
        "conv_kernel": 5,  # paper
        "embedding_dim": 128,  # paper
        "dropout": 0.5,  # paper
        "frames_per_token": frames_per_token,
        "pool_segments": pool_segments,
        "conv_norm": "batch",  # paper; "layer" does not depend on the batch
    }


def _spec_augment(num_mels: int) -> dict[str, Any]:
    """Masks on the log-mel, drawn in every step."""
    return {
        "num_frequency_masks": 2,
        "max_mels": num_mels // 8,  # 10 of 80
        "num_time_masks": 2,
        "max_frames": 40,  # of 368
        "anchor_fraction": 0.5,  # 0: anchors are not masked
    }


def _optimizer(learning_rate: float) -> dict[str, Any]:
    """The paper's Adam."""
    return {
        "kind": "adam",  # paper; "lamb" and "lars" for batches of thousands
        "learning_rate": learning_rate,
        "schedule": "constant",  # paper; "cosine" falls to final_fraction
        "warmup_steps": 0,
        "final_fraction": 0.02,
        "weight_decay": 5e-4,  # paper
        "decoupled": False,  # paper: L2 in the gradient; True is AdamW
        "clip_norm": 0.0,  # 0: off
        "average_decay": 0.0,  # moving average of the weights; 0: off
    }


def _data() -> dict[str, Any]:
    """What a batch is made of."""
    return {
        "dir": "",
        "split": "training",
        "subset": "",  # FMA's small, medium, large or full; "": all of `dir`
        "batch_size": 64,  # pairs; paper
        "crops_per_track": 1,  # paper; 2 and more give hard negatives from the same track
        "crop_spacing_s": (0.3, 3.75),
        "tracks_per_album": 1,  # 2 and more stand together in a batch, hard negatives as well
        # of the shards, even in every batch: hosts that divide it need only their own on their disk
        "num_shares": 1,
        "shift_alpha": 8.0,  # paper
        "shift_beta": 2.0,  # paper
        "max_shift_s": 0.15,  # paper
        "short_p": 0.0,  # share of the replicas that show only a part, for queries below segment_s
        "short_s": (1.0, 2.75),
        # "device": all audio in device memory, for accelerators that outrun the host's cores
        "residency": "host",
        "mel_on": "device",
        "num_workers": 0,
    }


def _mix() -> dict[str, Any]:
    """Drawn new for every replica (confp_jax/data/mixing.py); all off: stored replicas alone."""
    return {
        "clean_p": 0.0,
        "tempo_p": 0.0,
        "tempo": (0.7, 1.35),
        "turntable": 0.3,  # share of these whose pitch follows
        "pitch_p": 0.0,
        "pitch_semitones": (-2.0, 2.0),
        "room_p": 0.0,
        "synthetic_rooms": 0.5,  # share of the rooms
        "room_speed": (1.0, 1.0),
        "room_decay_db": (0.0, 0.0),
        "lead_s": 1.0,
        "sudden_p": 0.5,
        "noise_p": 0.0,
        "second_noise_p": 0.0,
        "noise_snr_db": (-4.0, 20.0),
        "coloured_p": 0.0,
        "coloured_snr_db": (-3.0, 20.0),
        "coloured_decay_db": (-6.0, 6.0),  # per octave
        "tanh_p": 0.0,
        "tanh_drive": (0.5, 4.0),
        "colour_p": 0.0,
        "tilt_db": (-4.0, 4.0),  # per octave
        "low_cut_hz": (50.0, 500.0),
        "high_cut_hz": (2500.0, 8000.0),
        "replay_p": 0.0,
        "overlay_p": 0.0,
        "overlay_snr_db": (-6.0, 6.0),  # of the music over another track
    }


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


def _validation() -> dict[str, Any]:
    """Retrieval of held-out tracks while training."""
    return {
        "split": "validation",
        "every_steps": 1000,
        "queries_per_track": 5,
        "index_hop_s": 0.6,
        "max_track_s": 30.0,
    }


def _train_as_shipped(config: ConfigDict) -> None:
    """What the last stages of the shipped `edge` were trained with; the reasons, and what each was
    worth: in its RECIPE.md.
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
    """For short runs on little data, all distortion drawn online: docs/research/experiments.md,
    "Two prototypes".
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

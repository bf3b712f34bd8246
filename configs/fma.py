"""The paper's three models, and two of ours.

    python -m confp_jax.training.train --config=configs/fma.py:small --config.data.dir=prepared/fma --workdir=runs/small

small, medium, large: the paper's Table 1 and PAPER.md's open points. edge: ours, for CPUs: 8
frames a token and 4 pooled parts.
tiny: for tests and the quickstart, not for use.

Measured: see the model cards, confp_jax/pretrained/*/README.md and edge/RECIPE.md, for the runs
that made the shipped weights.

Hard examples, `edge` (then of two layers, with the draws of its first stages) from random weights,
506 steps of 64 pairs on 705 clips of 30 s, seed 0; validation (88 held-out tracks, 440 distorted
excerpts, so that 4 points are chance), right track / within 500 ms / within 150 ms, percent:

    crops_per_track  tracks_per_album  track  near  exact
                  1                 1   45.2  29.3   10.9
                  2                 1   46.8  29.8   11.6  (`edge`'s own)
                  1                 2   44.8  31.8   12.7

What the paper fixes, and a teacher, in the same way (a later version of this code, two hard
negatives a track):

                                        track  near  exact
    as it stands                         41.1  28.6   11.4
    without SpecAugment                  52.5  40.5   16.8  (few steps: the encoder is still far
    from knowing the tracks by heart) without the Beta(8, 2) shift         43.9  28.6   11.4  (the
    two crops at the same place: no difference, within chance) learning `edge`'s fingerprints
    69.8  56.8   24.3  (teacher=edge, when both had mels up to 8 kHz)

What else a recipe is made of, in runs of equal time: `edge` of two layers from random weights at a
learning rate of 5e-4, 378 steps of 64 pairs (6 to 7 minutes of two cores that had other work as
well), one change each. Of 3,960 validation queries in nine conditions (clean, background noise 5/0
dB, time-varying noise 0 dB, reverb, reverb with noise 10 dB, stretch 70/80/130 %), by one
fingerprint among 300 tracks: right track and within 150 ms, means of the nine; right track in
noise at 0 dB, in reverb, and in reverb with noise. Two seeds differ by 0.9, so that only what
differs by more than two points says something:

                                                          track  exact  noise   room   both
    as it stands                                           81.8   37.2   58.4   86.1   72.3
    another seed                                           80.9   36.4   54.8   84.8   66.8
    learning rate 1.2e-3, edge's for longer runs           74.4   32.9   45.9   73.9   53.0
    temperature 0.1 instead of 0.05                        80.1   36.3   55.7   83.9   64.8
    dropout 0.1 instead of none                            81.8   37.3   56.8   86.1   70.9
    BatchNorm instead of LayerNorm                         82.6   37.8   58.4   86.4   74.1
    the last weights instead of averaged ones              82.1   37.8   58.4   86.1   74.1
    the mean over the whole window (pool_segments=1)       81.8   31.1   57.5   73.6   60.2
    4 frames a token instead of 8, 231 steps               78.3   32.8   50.7   78.4   58.4
    16 frames a token, 441 steps                           82.3   38.9   56.6   89.5   72.5
    80 mels up to 4 kHz instead of 8                       84.3   41.1   62.5   90.5   79.5
    80 mels up to 3 kHz                                    85.0   41.8   63.0   92.7   81.8
    eight stored replicas a track, nothing drawn anew      79.3   37.2   53.0   85.5   66.4
    half of the pairs from these, the cheap drawn on top   80.1   34.8   51.8   83.0   68.6
    crops from the full-length originals                   81.3   37.5   55.5   85.7   73.2

(`configs/fma.py:edge --config.encoder.num_layers=2 --config.data.short_p=0 --config.num_epochs=18
--config.mel.fmax_hz=8000
--config.optimizer.learning_rate=5e-4` and the change. Stored replicas: `configs/prepare.py` with
num_replicas=8, and every `_p` of `data.mix` 0; half of them: `clean_p` 0.5, as `edge` has it.
These two and the full-length tracks: 396 steps, for one track more. `edge` has had the narrower
mels since: what they were worth in its own training is in its RECIPE.md.)
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


def get_config(model: str = "small") -> ConfigDict:
    """`model`: small, medium, large, edge or tiny."""
    if model not in _MODELS:
        raise ValueError(f"unknown model {model!r}; known: {', '.join(_MODELS)}")
    dim, layers, heads, mels, frames_per_token, pool_segments = _MODELS[model]
    config = ConfigDict(
        {
            "name": model,
            # of weights, order, crops and distortion; set another in a run that goes on from one on
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
            # of that meaning; PAPER's start
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
            "encoder": {
                "dim": dim,
                "num_layers": layers,
                "num_heads": heads,
                "conv_kernel": 5,  # paper
                "embedding_dim": 128,  # paper
                "dropout": 0.5,  # paper
                "frames_per_token": frames_per_token,
                "pool_segments": pool_segments,
                "conv_norm": "batch",  # paper; "layer" does not depend on the batch
            },
            "spec_augment": _spec_augment(mels),
            "optimizer": _optimizer(1e-4 if model == "small" else 2e-4),  # paper
            "data": _data() | {"mix": _mix()},
            "validation": _validation(),
            "checkpoint": {"every_steps": 500, "num_kept": 3},
        }
    )
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


def _spec_augment(num_mels: int) -> dict[str, Any]:
    """Masks on the log-mel, drawn in every step."""
    return {
        "num_frequency_masks": 2,
        "max_mels": num_mels // 8,  # 10 of 80
        "num_time_masks": 2,
        "max_frames": 40,  # of 368
        "anchor_fraction": 0.5,
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
    """Drawn anew for every replica (confp_jax/data/mixing.py); all off: stored replicas alone, as
    the paper.
    """
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
    }


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
    """For short runs on little data, all distortion drawn online: FACTS, "What two rough prototypes
    showed".
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

"""What to prepare for training.

    python -m data_prep.make_train --config=configs/prepare.py:large \\
        --config.music_dir=fma_large --config.tracks_csv=fma_metadata/tracks.csv \\
        --config.noise_dir=noise --config.ir_dir=ir --config.out=prepared/fma_large

Any folder of music instead of FMA: leave tracks_csv empty. noise_dir and ir_dir: see
data_prep/sounds.py. paper_small and so on: the paper's transforms alone, at the start values of
docs/research/paper.md. docs/research/data.md describes every step.
"""

from ml_collections import ConfigDict

_SUBSETS = ("small", "medium", "large", "full")


def get_config(variant: str = "") -> ConfigDict:
    """`variant`: FMA's small, medium, large or full (nested), with the paper's transforms alone as
    paper_small and so on; of any other folder, leave it out.
    """
    subset = variant.removeprefix("paper_")
    if variant and subset not in _SUBSETS:
        known = (*_SUBSETS, *(f"paper_{name}" for name in _SUBSETS))
        raise ValueError(f"unknown subset {variant!r}; known: {', '.join(known)}")
    config = _with_our_transforms(subset)
    if subset != variant:
        _leave_the_papers_transforms(config.chain)
    return config


def _with_our_transforms(subset: str) -> ConfigDict:
    return ConfigDict(
        {
            "name": "fma",
            "music_dir": "",  # FMA's NNN/NNNNNN.mp3 tree, or any folder of audio
            "tracks_csv": "",  # FMA's tracks.csv; empty: any folder, split by a hash of the content
            "subset": subset,
            "allow_missing": False,  # or more than a tenth of tracks_csv's files must be there
            "splits": ("training", "validation", "test"),
            "noise_dir": "",  # ESC-50, MS-SNSD or a folder with train/ and test/; several: "a,b"
            "ir_dir": "",  # the MIT IR Survey or a folder with train/ and test/
            "out": "",
            # of every track, beside the clean clip; 0 with data.mix: all is drawn while training
            "num_replicas": 4,
            "seed": 0,
            "sample_rate_hz": 16_000,
            "min_clip_s": 6.0,
            "max_clip_s": 600.0,  # longer tracks are cut to their middle
            "tracks_per_shard": 16,
            "num_workers": 0,  # processes; 0: one for each core
            "chain": {  # the paper's transforms (start values: docs/research/paper.md), and ours
                "stretch": {"p": 0.4, "low": 0.7, "high": 1.3},  # playback rate
                "pitch": {"p": 0.3, "low": -2.0, "high": 2.0},  # semitones
                # from a loudspeaker into a microphone; what follows are ranges to draw from
                "replay_p": 0.0,
                "replay": _replay(),
                "speaker": {
                    "p": 0.15,
                    "low_hz": (100.0, 500.0),
                    "high_hz": (3500.0, 7000.0),
                },  # ours, as all without a source
                "reverb_p": 0.4,
                "background": {"p": 0.6, "low": -3.0, "high": 20.0},  # dB
                "varying": {"p": 0.1, "low": -3.0, "high": 20.0},  # dB
                "overlay": {
                    "p": 0.0,
                    "low": -6.0,
                    "high": 6.0,
                },  # dB, of other music; for query sets only
                "speech": {"p": 0.0, "low": -6.0, "high": 6.0},  # dB; for query sets only
                "coloured": {"p": 0.25, "low": -3.0, "high": 20.0},  # dB
                "coloured_decay_db": (-6.0, 6.0),  # per octave
                "gain": {"p": 0.3, "low": -20.0, "high": 0.0},  # dB
                "tanh": {"p": 0.15, "low": 0.01, "high": 0.7},
                "clipping": {"p": 0.1, "low": 1.0, "high": 10.0},  # per cent of the samples
                "polarity_p": 0.5,
                "telephone": {"p": 0.05, "low_hz": (300.0, 300.0), "high_hz": (3400.0, 3400.0)},
                "resample": {"p": 0.1, "low": 8000.0, "high": 16_000.0},  # Hz
                "mp3": {"p": 0.1, "low": 16.0, "high": 64.0},  # kbit/s
                "opus": {"p": 0.1, "low": 8.0, "high": 32.0},
                "aac": {"p": 0.1, "low": 16.0, "high": 64.0},
                "call_p": 0.0,
                "call": _call(),
            },
        }
    )


def _leave_the_papers_transforms(chain: ConfigDict) -> None:
    """Noise, coloured noise, rooms, pitch, stretch, polarity and tanh; noise from 0 dB."""
    for name in ("speaker", "varying", "gain", "clipping", "telephone", "resample"):
        chain[name].p = 0.0
    for name in ("mp3", "opus", "aac"):
        chain[name].p = 0.0
    chain.background.low = 0.0
    chain.coloured.low = 0.0


def _replay() -> dict[str, object]:
    """Loudspeaker, room, surroundings and microphone (confp_jax/data/replay.py): ranges to draw
    from.
    """
    return {
        "overload_p": 0.3,
        "overload_drive": (0.5, 3.0),
        "speaker_low_hz": (80.0, 1100.0),
        "speaker_slope_db": (6.0, 24.0),  # per octave
        "speaker_uneven_db": (2.0, 7.0),
        "dull_p": 0.3,
        "dull_hz": (2500.0, 7000.0),
        "room_p": 0.9,
        "ambience_snr_db": (-12.0, 18.0),
        "ambience_tilt_db": (-6.0, 1.0),  # per octave
        "noise_p": 0.5,
        "noise_snr_db": (-6.0, 18.0),
        "microphone_low_hz": (60.0, 300.0),
        "microphone_slope_db": (0.0, 12.0),  # per octave
        "microphone_uneven_db": (1.0, 4.0),
        "hiss_snr_db": (5.0, 40.0),
        "swell_p": 0.5,
        "swell_db": (2.0, 8.0),
        "gain_p": 0.5,
        "gain_strength": (0.3, 0.9),
        "clip_p": 0.15,
        "clip_level": (1.0, 3.0),  # of the RMS
        "suppression_p": 0.3,
        "suppression": (0.5, 2.0),
    }


def _call() -> dict[str, object]:
    """A telephone call (confp_jax/data/telephone.py): ranges to draw from."""
    return {
        "codecs": ("mulaw", "alaw", "gsm", "amr", "g723", "opus"),
        "kbps": (4.75, 12.2),  # of AMR and Opus
        "second_codec_p": 0.3,
        "low_hz": (200.0, 350.0),
        "high_hz": (3200.0, 3600.0),
        "loss_p": 0.5,
        "loss_share": (0.01, 0.05),  # of the packets
        "concealed_p": 0.5,
        "noise_p": 0.7,
        "noise_snr_db": (10.0, 35.0),
        "clipping_p": 0.2,
        "clipping_db": (3.0, 12.0),
        "touch_tone_p": 0.1,
        "sidetone_p": 0.1,
        "sidetone_db": (-30.0, -12.0),
    }

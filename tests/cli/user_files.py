"""Music, models and broken files as users have them, for the tests of the command line."""

import fractions
import pathlib
import sys

import av
import numpy as np
import pytest
import soundfile

EXAMPLES = pathlib.Path(__file__).resolve().parents[2] / "examples" / "music"
CONFP = [sys.executable, "-m", "confp_jax.cli"]
RATE = 44_100
SOURCE = "jordan-trudgett_battle2"
OTHERS = (
    "alexandr-zhelanov_low-fi",
    "askyel_sirius-remix",
    "claude-werner_win-theme",
    "david-reeves_david03",
)
OTHERS += ("karissa-hobbs_lets-go-fishin", "manuel-marino_van-mission4")
NEW = "tim-beek_the-protagonist"  # in no database
FOUND_KEYS = {
    "track",
    "path",
    "offset_s",
    "score",
    "confidence",
    "query_offset_s",
    "length_s",
    "tempo",
    "id",
    "title",
    "artist",
    "album",
    "tags",
    "copies",
}


def save_untrained(folder: pathlib.Path, seed: int) -> str:
    """Saves a `tiny` encoder with its initial weights; returns its weights hash."""
    nnx = pytest.importorskip("flax.nnx")  # the base installation has no JAX

    from configs.fma import get_config
    from confp_jax.config import TrainConfig
    from confp_jax.model.encoder import Encoder
    from confp_jax.model.weights import EncoderState, hash_weights, save_encoder
    from confp_jax.typed_config import from_mapping

    config = from_mapping(TrainConfig, get_config("tiny"))
    encoder = Encoder(config.encoder, num_mels=config.mel.num_mels, rngs=nnx.Rngs(seed))
    _, params, statistics = nnx.split(encoder, nnx.Param, ...)
    save_encoder(folder, config, EncoderState(params, statistics))
    return hash_weights(config.model, EncoderState(params, statistics))


def write_m4a(path: pathlib.Path, samples: np.ndarray, rate_hz: int) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=rate_hz)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(samples[None], np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate = rate_hz
        frame.time_base = fractions.Fraction(1, rate_hz)
        frame.pts = 0
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)


def write_clip(folder: pathlib.Path, name: str, samples: np.ndarray) -> pathlib.Path:
    folder.mkdir(parents=True, exist_ok=True)
    soundfile.write(folder / name, samples, RATE)
    return folder / name


def write_bad_files(folder: pathlib.Path, clip: np.ndarray) -> dict[str, str]:
    """One of each kind; returns {name: a word of the message}."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    (folder / "empty.wav").write_bytes(b"")
    (folder / "corrupt.wav").write_bytes(rng.bytes(50_000))
    (folder / "corrupt.mp3").write_bytes(rng.bytes(50_000))
    (folder / "text.mp3").write_text("This is no music.\n" * 1000)
    (folder / "text.flac").write_text("This is no music.\n" * 1000)
    soundfile.write(folder / "zero.wav", np.zeros(0), RATE)
    soundfile.write(folder / "silent.wav", np.zeros(5 * RATE), RATE)
    soundfile.write(folder / "half.wav", clip[: RATE // 2], RATE)
    soundfile.write(folder / "slow.wav", clip[:15_000], 3_000)
    broken = clip.copy()
    broken[70_000] = np.nan
    soundfile.write(folder / "nan.wav", broken, RATE, subtype="FLOAT")
    write_m4a(folder / "whole.m4a", clip, RATE)
    content = (folder / "whole.m4a").read_bytes()
    (folder / "whole.m4a").unlink()
    (folder / "cut.m4a").write_bytes(content[: len(content) // 2])
    said = {
        "corrupt.wav": "decoded",
        "corrupt.mp3": "decoded",
        "text.mp3": "decoded",
        "cut.m4a": "decoded",
    }
    return said | {"empty.wav": "empty", "zero.wav": "no audio samples", "text.flac": "no audio",
                   "silent.wav": "silent", "nan.wav": "NaN", "slow.wav": "3000 Hz",
                   "half.wav": "0.50 s"}  # fmt: skip

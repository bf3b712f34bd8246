"""Models in a bucket: exported to, loaded from and named by their address."""

import dataclasses
import pathlib

import pytest
from etils import epath
from flax import nnx

from confp_jax.config import AudioConfig, EncoderConfig, MelConfig, TrainConfig
from confp_jax.fingerprint.embedder import UnknownModelError, load_encoder
from confp_jax.matching.decision import load_decision, uncalibrated
from confp_jax.model.inference import build_encoder
from confp_jax.model.weights import CheckpointError, EncoderState, save_encoder
from confp_jax.training import export

_CONFIG = TrainConfig(
    audio=AudioConfig(segment_s=1.0),
    mel=MelConfig(num_mels=8),
    encoder=EncoderConfig(dim=8, num_layers=1, num_heads=2, embedding_dim=4),
)


@pytest.fixture
def run(bucket: epath.Path, tmp_path: pathlib.Path) -> epath.Path:
    """A run's folder in a bucket, its newest checkpoint number 7."""
    state = EncoderState(*nnx.split(build_encoder(_CONFIG.model, seed=0), nnx.Param, ...)[1:])
    save_encoder(tmp_path / "7", _CONFIG, state)
    for path in (tmp_path / "7").rglob("*"):
        if path.is_file():
            target = bucket / "checkpoints" / path.relative_to(tmp_path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return bucket


def test_a_model_goes_from_bucket_to_bucket(
    run: epath.Path, bucket: epath.Path, capsys: pytest.CaptureFixture
) -> None:
    out = f"{bucket}-model"
    assert export.main([str(run), out, "--dtype=float32"]) == 0
    assert f"{out}: small, 0.0 MB" in capsys.readouterr().out
    of_run = load_encoder(str(run))
    exported = load_encoder(out)
    assert of_run.weights_hash == exported.weights_hash
    assert (of_run.name, exported.name) == (str(run), out)
    assert not load_decision(exported.folder, exported.weights_hash).calibrated
    ours = dataclasses.replace(uncalibrated(), weights_hash=exported.weights_hash, calibrated=True)
    (epath.Path(out) / "decision.json").write_text(ours.to_json())
    assert load_decision(exported.folder, exported.weights_hash).calibrated
    assert export.main([str(run), out]) == 1
    assert "exists; name another folder" in capsys.readouterr().err


def test_what_is_not_there(bucket: epath.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownModelError, match="gs://bucket-.*neither a shipped model nor"):
        load_encoder(str(bucket))

    def refuse(*_: object) -> bool:
        raise OSError("no credentials")

    monkeypatch.setattr(type(bucket), "is_dir", refuse)
    with pytest.raises(CheckpointError, match=r"cannot be read \(OSError: no cred.*gcsfs"):
        load_encoder(str(bucket))

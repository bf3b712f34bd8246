"""The models that ship inside the package."""

import json
import pathlib

DECISION = "decision.json"  # the calibration of a model, in its folder
PRETRAINED = pathlib.Path(__file__).resolve().parent.parent / "pretrained"


def shipped_models() -> list[str]:
    """Their names."""
    return (
        sorted(p.name for p in PRETRAINED.iterdir() if (p / "checkpoint").is_dir())
        if PRETRAINED.is_dir()
        else []
    )


def shipped_folder(name: str) -> pathlib.Path:
    """Returns where a shipped model lies, with what belongs to it."""
    return PRETRAINED / name


def shipped_weights_hash(name: str) -> str:
    """Returns the hash of its weights, as its calibration says; "" where it has none."""
    file = shipped_folder(name) / DECISION
    return json.loads(file.read_text())["identity"] if file.is_file() else ""

"""The models that ship inside the package."""

import pathlib

PRETRAINED = pathlib.Path(__file__).resolve().parent.parent / "pretrained"


def shipped_models() -> list[str]:
    """Their names."""
    return (
        sorted(p.name for p in PRETRAINED.iterdir() if (p / "checkpoint").is_dir())
        if PRETRAINED.is_dir()
        else []
    )


def shipped_folder(name: str) -> pathlib.Path:
    """Where a shipped model lies, with what belongs to it."""
    return PRETRAINED / name

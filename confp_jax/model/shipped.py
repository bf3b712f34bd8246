"""The models that ship inside the package."""

import pathlib

from confp_jax.texts import parse_json

DECISION = "decision.json"  # the calibration of a model, in its folder
PRETRAINED = pathlib.Path(__file__).resolve().parent.parent / "pretrained"


def shipped_models() -> list[str]:
    """Returns their names, sorted."""
    return (
        sorted(p.name for p in PRETRAINED.iterdir() if (p / "checkpoint").is_dir())
        if PRETRAINED.is_dir()
        else []
    )


def shipped_folder(name: str) -> pathlib.Path:
    """Returns the folder of a shipped model: weights, calibration and card."""
    return PRETRAINED / name


def model_card(name: str) -> dict:
    """Returns the card.json of a shipped model: parameters, data, measured hit rates, licence."""
    file = shipped_folder(name) / "card.json"
    try:
        return dict(parse_json(file.read_text())) if file.is_file() else {}
    except (OSError, ValueError, TypeError) as error:
        return {"summary": f"{file} is damaged ({error}); install confp_jax again"}


def shipped_weights_hash(name: str) -> str:
    """Returns the hash of its weights, as its calibration says; "" where it has none, or a damaged
    one, which `load_decision` refuses.
    """
    try:
        return str(parse_json((shipped_folder(name) / DECISION).read_text())["identity"])
    except (OSError, ValueError, LookupError, TypeError):
        return ""

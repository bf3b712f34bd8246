"""Where models lie: shipped ones, checkpoint folders, buckets, ONNX files."""

import pathlib

from confp_jax.errors import UserError
from confp_jax.fingerprint.engine import check_jax
from confp_jax.model.addresses import is_remote
from confp_jax.model.shipped import DECISION, shipped_folder, shipped_models, shipped_weights_hash

DEFAULT_MODEL = "edge2"


class UnknownModelError(UserError):
    """Neither a shipped model nor a checkpoint folder."""


def place_of(name: str) -> pathlib.Path | None:
    """Returns the folder or file of a model, None if it does not exist."""
    if is_remote(name):
        check_jax(name)
        from confp_jax.fingerprint.jax_engine import bucket_folder

        return bucket_folder(name)
    is_shipped = name in shipped_models()
    place = shipped_folder(name) if is_shipped else pathlib.Path(name).expanduser().absolute()
    return place if place.is_dir() or (place.suffix == ".onnx" and place.is_file()) else None


def home_of(source: pathlib.Path, weights_hash: str) -> pathlib.Path:
    """Returns where a model's calibration lies: beside an ONNX file, or with the shipped model that
    it was made of.
    """
    folder = source.parent if source.suffix == ".onnx" else source
    if (folder / DECISION).is_file():
        return folder
    made_of = (name for name in shipped_models() if shipped_weights_hash(name) == weights_hash)
    return next(map(shipped_folder, made_of), folder)


def model_of_dims(model: str | None, dims: int | None) -> str | None:
    """Returns the shipped model whose fingerprints are those of `model` (by default the default
    one) in `dims` values; `model` itself where no number is asked for.

    Raises:
      UnknownModelError: there is none.
    """
    if dims is None:
        return model
    name = f"{model or DEFAULT_MODEL}-{dims}"
    if name not in shipped_models():
        stem = name.removesuffix(str(dims))
        shorter = [one.removeprefix(stem) for one in shipped_models() if one.startswith(stem)]
        known = f"there are {' and '.join(shorter)}" if shorter else "it has one number of values"
        raise UnknownModelError(
            f"--dims {dims}: {model or DEFAULT_MODEL} is not that short; {known}"
        )
    return name

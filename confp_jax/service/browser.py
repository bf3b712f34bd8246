"""What others need to compute fingerprints themselves: what the model is, and for the page's own
`?local` ONNX Runtime for the web and the model's file.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from confp_jax.errors import UserError
from confp_jax.fingerprint.embedder import Embedder
from confp_jax.fingerprint.engine import onnx_file
from confp_jax.fingerprint.onnx_engine import OnnxEngine
from confp_jax.fingerprint.places import place_of
from confp_jax.fingerprint.query_rows import has_both_parts, sped_up_below
from confp_jax.fingerprint.windows import SILENT_RMS, SPEEDUP
from confp_jax.service.problems import Problem
from confp_jax.service.responses import ServedFile
from confp_jax.service.settings import BROWSER_FILES

_RUNTIME, _WASM = BROWSER_FILES
_MODEL = "model.onnx"
_TYPES = {
    _RUNTIME: "text/javascript",
    _WASM: "application/wasm",
    _MODEL: "application/octet-stream",
}
# What a cache holds is used once the service has said that it has not changed.
_CACHED = {"Cache-Control": "no-cache"}


class BrowserModelError(UserError):
    """A model that browsers cannot run; the message says why."""


class BrowserFiles:
    """The files that the page loads to compute fingerprints: these and no others.

    Args:
      runtime: the folder `dist` of the package onnxruntime-web; None: there is none, and a page
        asks by its audio alone.
      embedder: the model that is served.

    Raises:
      BrowserModelError: the model has no ONNX file, or only one part.
    """

    def __init__(self, runtime: pathlib.Path | None, embedder: Embedder):
        self._files: Mapping[str, pathlib.Path] = {}
        if runtime is not None:
            own = {name: runtime / name for name in BROWSER_FILES}
            self._files = own | {_MODEL: _model_file(embedder)}

    def places(self) -> dict[str, str] | None:
        """Returns where a page finds each of them, by relative addresses."""
        if not self._files:
            return None
        names = {"runtime": _RUNTIME, "wasm": _WASM, "model": _MODEL}
        return {what: f"local/{name}" for what, name in names.items()}

    def response(self, request: Request) -> Response:
        """Returns the file that the path names, or that the browser's own copy is still right.

        Raises:
          Problem: 404.
        """
        name = request.path_params["name"]
        if name not in self._files:
            raise Problem(
                404,
                "there is no such file for browsers",
                "GET /v1/model names them; its operator can start this service with "
                "--browser-runtime FOLDER",
            )
        path = self._files[name]
        try:
            found = path.stat()
        except OSError as error:
            raise Problem(
                404, "the file is gone", "its operator can put it back, or restart this service"
            ) from error
        file = ServedFile(path, media_type=_TYPES[name], stat_result=found, headers=_CACHED)
        known = request.headers.get("if-none-match", "").split(",")
        if file.headers["etag"] in [tag.strip().removeprefix("W/") for tag in known]:
            return Response(status_code=304, headers=_CACHED | {"ETag": file.headers["etag"]})
        return file


def model_reply(
    embedder: Embedder, files: BrowserFiles, *, hop_s: float, max_audio_s: float
) -> dict[str, Any]:
    """Returns what a client needs to know that computes fingerprints itself."""
    config = embedder.config
    return {
        "weights_hash": embedder.weights_hash,
        "takes_fingerprints": has_both_parts(config),
        "hop_s": hop_s,
        "max_audio_s": max_audio_s,
        "speedup": SPEEDUP,
        "sped_up_below_samples": sped_up_below(config),
        "silent_rms": SILENT_RMS,
        "config": dataclasses.asdict(config),
        "files": files.places(),
    }


def _model_file(embedder: Embedder) -> pathlib.Path:
    """Returns the model's ONNX file, which was read whole.

    Raises:
      BrowserModelError: there is none, or it is another model's.
    """
    if not has_both_parts(embedder.config):
        raise BrowserModelError(
            f"--browser-runtime: model {embedder.name} has one part; browsers compute those with a "
            "projection and a conformer, as edge2 has"
        )
    place = place_of(embedder.name)
    file = None if place is None else onnx_file(place)
    if file is None or not file.is_file():
        raise BrowserModelError(
            f"--browser-runtime: model {embedder.name} has no ONNX file; `confp export MODEL --onnx"
            " FILE` makes it, where JAX is"
        )
    if OnnxEngine(file).weights_hash != embedder.weights_hash:
        raise BrowserModelError(
            f"--browser-runtime: {file} has other weights than the model that is served; make it "
            "again with `confp export MODEL --onnx FILE`"
        )
    return file

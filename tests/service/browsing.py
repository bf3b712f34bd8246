"""The page in Debian's Chromium: what its tests share."""

import importlib.util
import pathlib
import shutil

import pytest
from running_service import ROOT

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
PHONE = {"width": 360, "height": 740}
# ONNX Runtime for the web, where .ci/run has put it.
RUNTIME = ROOT / ".cache" / "onnxruntime-web" / "dist"
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None or importlib.util.find_spec("playwright") is None,
    reason="no Chromium or no playwright; install them: apt install chromium, the extra dev",
)
needs_runtime = pytest.mark.skipif(
    not RUNTIME.is_dir(), reason="no onnxruntime-web; `.ci/run` fetches it with npm"
)


def title(page) -> str:
    """What the answer is called."""
    return page.locator("#answer-title").inner_text()


def wait_for_answer(page) -> None:
    page.locator("#answer").wait_for(timeout=60_000)


def runtime_folder(empty: pathlib.Path) -> pathlib.Path:
    """The runtime's folder; where there is none, files of its names that nothing can run."""
    if RUNTIME.is_dir():
        return RUNTIME
    for name in ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"):
        (empty / name).write_text("not the runtime")
    return empty

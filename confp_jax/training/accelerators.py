"""What accelerators can do, by their makers' data sheets: for the share of the peak that training
reaches, and for forecasts.
"""

from typing import NamedTuple


class Chip(NamedTuple):
    """One chip's peak numbers."""

    name: str
    bf16_flops: float  # a second, dense
    memory_bytes: float
    memory_bytes_per_s: float
    link_bytes_per_s: float  # to other chips, all links together, one way
    kinds: tuple[str, ...]  # JAX's `device_kind`


_GB = 1e9
CHIPS = (
    Chip("v4", 275e12, 32 * 1024**3, 1200 * _GB, 300 * _GB, ("TPU v4",)),
    Chip("v5e", 197e12, 16 * 1024**3, 819 * _GB, 200 * _GB, ("TPU v5 lite", "TPU v5e")),
    Chip("v5p", 459e12, 95 * 1024**3, 2765 * _GB, 600 * _GB, ("TPU v5", "TPU v5p")),
    Chip("v6e", 918e12, 32 * 1024**3, 1640 * _GB, 448 * _GB, ("TPU v6 lite", "TPU v6e")),
    Chip("A100", 312e12, 80e9, 2039 * _GB, 300 * _GB, ("NVIDIA A100-SXM4-80GB",)),
    Chip("A100-40GB", 312e12, 40e9, 1555 * _GB, 300 * _GB, ("NVIDIA A100-SXM4-40GB",)),
    Chip("H100", 989e12, 80e9, 3350 * _GB, 450 * _GB, ("NVIDIA H100 80GB HBM3",)),
    Chip("H200", 989e12, 141e9, 4800 * _GB, 450 * _GB, ("NVIDIA H200",)),
)


def find_chip(device_kind: str) -> Chip | None:
    """Returns the chip that JAX calls `device_kind`; None if it is not among `CHIPS` (a CPU never
    is).
    """
    return next((chip for chip in CHIPS if device_kind in chip.kinds), None)

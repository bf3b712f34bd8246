"""Options for XLA that a backend needs to be fast."""

import ctypes
import functools
import pathlib
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax

# malloc.h
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_M_ARENA_MAX = -8


def fast_jit(
    *, static_argnames: Sequence[str] = (), donated: Sequence[int] = ()
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`jax.jit` with `compiler_options()`, made at the first call: importing a module must not
    start the backend.

    The jitted function itself is `function.jitted()`.
    Arguments with the numbers `donated` give their memory to the results on accelerators; on a CPU
    they are kept, because what saves them in the background may look at the same memory.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.cache
        def jitted() -> Any:
            numbers = () if jax.default_backend() == "cpu" else tuple(donated)
            options = compiler_options()
            return jax.jit(
                function,
                static_argnames=static_argnames,
                donate_argnums=numbers,
                compiler_options=options,
            )

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            return jitted()(*args, **kwargs)

        setattr(call, "jitted", jitted)  # noqa: B010 (a function's own attribute)
        return call

    return decorate


@functools.cache
def compiler_options() -> dict[str, str]:
    """Returns options for `jax.jit(..., compiler_options=)`: {} on accelerators. It starts the
    backend, so call it after any distributed set-up.

    On a CPU, XLA 0.10 hands attention, LayerNorm and the products to YNNPACK, fused. That is good
    for a forward pass in small batches (`Embedder`). A training step has many more sums, for which
    its own code (windows of 32, not fused) takes a third of edge's step: with YNNPACK's sums, and
    the rest its own, the step of small and of edge takes 0.9 (benchmarks/train_step.py).
    """
    if jax.default_backend() != "cpu":
        return {}
    options = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:  # an XLA without YNNPACK does not know the option
        return {}
    return options


@functools.cache
def has_fast_bfloat16() -> bool:
    """Returns whether this is a CPU on which float32 sums of bfloat16 products are twice as fast as
    those of float32.

    It needs instructions for them; on other CPUs XLA computes them by float32, which is slower
    than float32 from the start.
    """
    flags = pathlib.Path("/proc/cpuinfo")
    has_instructions = flags.is_file() and re.search(
        r"^flags\b.*\b(avx512_bf16|amx_bf16)\b", flags.read_text(), re.MULTILINE
    )
    return jax.default_backend() == "cpu" and bool(has_instructions)


def keep_freed_memory() -> None:
    """Has the process keep the memory that a step frees for the next step; call it once, before
    the work.

    XLA allocates a CPU step's intermediate arrays again each time (1 GB for the small model at 32
    segments). glibc gives such sizes back to the system, and every page is faulted in and zeroed
    again: a quarter of a training step (benchmarks/train_step.py). The price is that memory stays
      at its peak. Does nothing where the C library is another.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if set_option is not None:
        for option, value in ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1)):
            set_option(option, value)

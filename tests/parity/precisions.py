"""The ways in which a network may reproduce a recorded array.

The recordings are float32. Where the lowest level of a reduced UNet is one pixel, a group norm of
its motion modules has groups of two values: when these are nearly equal, what earlier layers
rounded away is enlarged up to a thousandfold, and the same formulas give other third or fourth
digits with every order of summation. So an array counts as reproduced when any of these ways is
within its tolerance, whole; the tolerance stays as it is, and the report says which way it was.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import TypeVar

import torch
from torch import Tensor

from tests.parity.output import Make
from tests.parity.recorded import Array

Result = TypeVar("Result")
Compute = Callable[[torch.dtype], Result]
Pick = Callable[[Result], Tensor]


def in_each_precision(compute: Compute[Tensor]) -> dict[str, Make]:
    """Return the ways to call ``compute``: float32, float64, float32 with other kernels."""
    return pick_in_each(compute, lambda value: value)


def pick_in_each(compute: Compute[Result], pick: Pick[Result]) -> dict[str, Make]:
    """As :func:`in_each_precision` for one of several tensors that are computed together.

    Args:
        compute: computes them; give it through :func:`once_per_way`.
        pick: returns the one that is wanted from the result.
    """
    return {
        "float32": partial(_run, compute, pick, torch.float32),
        "float64": partial(_run, compute, pick, torch.float64),
        "float32, plain kernels": partial(_run_plain, compute, pick),
    }


def in_float32(compute: Callable[[], Tensor]) -> dict[str, Make]:
    """Return the one way of networks whose weights would take too much memory in float64."""
    return {"float32": partial(_run, lambda _: compute(), lambda value: value, torch.float32)}


def once_per_way(compute: Compute[Result]) -> Compute[Result]:
    """Return ``compute`` with a memory of what it returned in each precision and kernel family."""

    @cache
    def remembered(dtype: torch.dtype, _kernels: bool) -> Result:
        return compute(dtype)

    return lambda dtype: remembered(dtype, torch.backends.mkldnn.enabled)


def _run(compute: Compute[Result], pick: Pick[Result], dtype: torch.dtype) -> Array:
    with torch.inference_mode():
        return pick(compute(dtype)).numpy()


def _run_plain(compute: Compute[Result], pick: Pick[Result]) -> Array:
    with _plain_kernels():
        return _run(compute, pick, torch.float32)


@contextmanager
def _plain_kernels() -> Iterator[None]:
    """Switch oneDNN's convolutions off."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch warns about its own defaults
        with torch.backends.mkldnn.flags(enabled=False):
            yield

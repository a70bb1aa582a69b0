"""The ways in which a network may reproduce a recorded array.

The recordings are float32. Where the lowest level of a reduced UNet is one pixel, a group norm of
its motion modules has groups of two values: when these are nearly equal, what earlier layers
rounded away is enlarged up to a thousandfold, and the same formulas give other third or fourth
digits with every order of summation. So an array counts as reproduced

1. when one of these ways is within its tolerance, whole: float32, float64, float32 with other
   kernels; or else
2. when every value is within its tolerance or within ``MARGIN`` times what float32 itself leaves
   open there: how far float32 runs whose inputs differ in the last bit end up from float64.

The report says which it was. Where a network does not enlarge roundings, the second rule allows
less than the tolerance, so it changes nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from tests.parity.output import Reproduction
from tests.parity.recorded import Array

MARGIN = 3
_RUNS = 8  # of float32, to see what it leaves open
_LAST_BIT = 2**-23


@dataclass(frozen=True)
class Way:
    """How a network is run.

    Attributes:
        dtype: of weights and values.
        plain: without oneDNN's kernels.
        jitter: if not 0, which last bits of the inputs are changed.
    """

    dtype: torch.dtype
    plain: bool = False
    jitter: int = 0

    def blur(self, values: Tensor) -> Tensor:
        """Return the inputs with other last bits, if this way has that."""
        if not self.jitter:
            return values
        generator = torch.Generator().manual_seed(self.jitter)
        signs = torch.randint(-1, 2, values.shape, generator=generator)
        return values * (1 + signs * _LAST_BIT)


Result = TypeVar("Result")
Compute = Callable[[Way], Result]
Pick = Callable[[Result], Tensor]

_FLOAT32, _FLOAT64 = Way(torch.float32), Way(torch.float64)
_PLAIN = Way(torch.float32, plain=True)


def in_each_precision(compute: Compute[Tensor]) -> Reproduction:
    """Return the ways to reproduce what ``compute`` returns."""
    return pick_in_each(compute, lambda value: value)


def pick_in_each(compute: Compute[Result], pick: Pick[Result]) -> Reproduction:
    """As :func:`in_each_precision` for one of several tensors that are computed together.

    Args:
        compute: computes them; give it through ``functools.cache``.
        pick: returns the one that is wanted from the result.
    """
    run = partial(_run, compute, pick)
    return Reproduction(
        attempts={
            "float32": partial(run, _FLOAT32),
            "float64": partial(run, _FLOAT64),
            "float32, plain kernels": partial(run, _PLAIN),
        },
        exact=partial(run, _FLOAT64),
        open_by=cache(partial(_left_open, run)),
    )


def in_float32(compute: Callable[[], Tensor]) -> Reproduction:
    """Return the one way of networks whose weights would take too much memory in float64."""
    return Reproduction(
        attempts={"float32": partial(_run, lambda _: compute(), lambda value: value, _FLOAT32)}
    )


def _left_open(run: Callable[[Way], Array]) -> Array:
    """Return how far values may be off that are right to float32's rounding."""
    exact = run(_FLOAT64).astype(np.float64)
    ways = (Way(torch.float32, jitter=number + 1) for number in range(_RUNS))
    return MARGIN * np.max([np.abs(run(way) - exact) for way in ways], axis=0)


def _run(compute: Compute[Result], pick: Pick[Result], way: Way) -> Array:
    with torch.inference_mode(), _kernels(way.plain):
        return pick(compute(way)).numpy()


@contextmanager
def _kernels(plain: bool) -> Iterator[None]:
    """Switch oneDNN's convolutions off, if ``plain``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch warns about its own defaults
        with torch.backends.mkldnn.flags(enabled=not plain):
            yield

"""Stand-in weights that every machine makes alike, so that numbers can be compared.

One tensor's values follow from its name, its shape and a salt: standard normal numbers of PCG64
seeded with the CRC-32 of salt + name, scaled by the square root of what one output sums up; gains
of norms lie around one; position tables are what they are in the real model.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


def make_state(shapes: Mapping[str, Sequence[int]], salt: str = "") -> dict[str, Array]:
    """Return the values of every tensor of a manifest (name -> shape)."""
    return {name: make_tensor(name, tuple(shape), salt) for name, shape in shapes.items()}


def make_tensor(name: str, shape: tuple[int, ...], salt: str = "") -> Array:
    """Return the float32 values of one tensor."""
    if name.endswith(".pe"):
        return _interleaved_table(shape[1], shape[2])[None]
    if name == "encoder.positional_embedding":
        return _split_table(*shape)
    seed = zlib.crc32((salt + name).encode())
    values = np.random.Generator(np.random.PCG64(seed)).standard_normal(shape, dtype=np.float32)
    if len(shape) >= 2:
        return values * np.float32(1 / math.sqrt(math.prod(shape[1:])))
    around = np.float32(1 if name.endswith(".weight") else 0)
    return around + np.float32(0.1) * values


def _interleaved_table(length: int, dim: int) -> Array:
    rates = np.exp(np.arange(0, dim, 2) * (-math.log(10_000) / dim))
    angles = np.arange(length)[:, None] * rates
    return np.stack((np.sin(angles), np.cos(angles)), axis=-1).reshape(length, dim).astype("f4")


def _split_table(length: int, dim: int) -> Array:
    rates = np.exp(np.arange(dim // 2) * (-math.log(10_000) / (dim // 2 - 1)))
    angles = np.arange(length)[:, None] * rates
    return np.concatenate((np.sin(angles), np.cos(angles)), axis=1).astype("f4")

"""Reproducible stand-in weights: the rule behind the golden arrays.

Every tensor depends on its name, its shape and a salt alone, so no file of weights is needed.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Shape = Sequence[int]


def make_weights(manifest: Mapping[str, Shape], salt: str = "") -> dict[str, Floats]:
    """Return a float32 array for every name and shape of ``manifest``."""
    return {name: make_array(name, tuple(shape), salt) for name, shape in manifest.items()}


def make_array(name: str, shape: tuple[int, ...], salt: str = "") -> Floats:
    """Return the array of one name: a table of sinusoids, or noise scaled by what it is used for.

    Kernels and matrices have a variance of one over the values that enter an output, gains of norms
    lie around one, all else around zero.
    """
    if name.endswith(".pe"):
        return _interleaved_table(*shape[1:])[None]
    if name == "encoder.positional_embedding":
        return _halved_table(*shape)
    seed = zlib.crc32(f"{salt}{name}".encode())
    noise = np.random.Generator(np.random.PCG64(seed)).standard_normal(shape, np.float32)
    if len(shape) > 1:
        return noise * np.float32(1 / math.sqrt(math.prod(shape[1:])))
    tenth = np.float32(0.1) * noise
    return tenth + np.float32(1) if name.endswith(".weight") else tenth


def _interleaved_table(length: int, channels: int) -> Floats:
    """Return (length, channels): sines in even channels, cosines in odd ones."""
    frequencies = np.exp(-math.log(10000) / channels * np.arange(0, channels, 2, np.float64))
    angles = np.arange(length, dtype=np.float64)[:, None] * frequencies
    return np.stack([np.sin(angles), np.cos(angles)], axis=2).reshape(length, -1).astype(np.float32)


def _halved_table(length: int, channels: int) -> Floats:
    """Return (length, channels): sines in the first half, cosines in the second."""
    half = channels // 2
    frequencies = np.exp(-math.log(10000) / (half - 1) * np.arange(half, dtype=np.float64))
    angles = np.arange(length, dtype=np.float64)[:, None] * frequencies
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)

"""mask_prep.npz: the mask at every size, and pictures through it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from latentsync.pipelines.lipsync.mask import (
    hide_mouth,
    keep_mask,
    keep_surroundings,
    keep_weights,
    latent_mask,
    to_pixel_values,
)
from tests.parity.output import Output
from tests.parity.recorded import Array, RecordedFile
from tests.parity.tolerance import EXACT, Tolerance

_VALUES = Tolerance(1e-6)
_PICTURES = ("ref_pixel_values", "masked_pixel_values", "masks", "combined", "decoded", "faces")


def check(recorded: RecordedFile) -> Iterator[Output]:
    for resolution in recorded.cases("mask_res", "latent_mask_res"):
        mask, latent = partial(keep_mask, int(resolution)), partial(latent_mask, int(resolution))
        yield Output(f"mask_res{resolution}", EXACT, mask, "uint8")
        yield Output(f"latent_mask_res{resolution}", _VALUES, latent)
    if not any(name in recorded for name in _PICTURES):
        return

    def pixels() -> Array:
        return to_pixel_values(recorded.read("faces", "uint8"))

    def combined() -> Array:
        decoded = recorded.read("decoded", "float16", "float32").astype(np.float32)
        return keep_surroundings(decoded, pixels())

    yield Output("ref_pixel_values", _VALUES, pixels)
    yield Output("masked_pixel_values", _VALUES, lambda: hide_mouth(pixels()))
    yield Output("masks", _VALUES, lambda: _repeated_mask(recorded.read("faces", "uint8")))
    yield Output("combined", Tolerance(1e-5), combined)


def _repeated_mask(faces: Array) -> Array:
    resolution = faces.shape[1]
    return np.broadcast_to(keep_weights(resolution), (len(faces), 1, resolution, resolution))

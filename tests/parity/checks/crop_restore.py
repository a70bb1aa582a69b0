"""crop_restore.npz: a face out of its frame, and a generated one back into it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
import torch

from latentsync.pipelines.lipsync.alignment import crop_size
from latentsync.pipelines.lipsync.bilinear import (
    cut_crop,
    fit_crop,
    invert,
    place_pixels,
    sample,
    window_of,
)
from latentsync.pipelines.lipsync.paste_back import SeamMask, fit_face, restore_face, seam_mask
from tests.parity.checks.alignment import MATRIX, align
from tests.parity.output import Output
from tests.parity.recorded import Array, RecordedFile
from tests.parity.tolerance import EXACT, Tolerance

_CROP = Tolerance(1, share=0.05)  # levels; where a flat grey is a hair below one and is cut
_RESTORED = Tolerance(1, share=0.002)  # levels
_MASK = Tolerance(1e-3)  # recorded in float16
_THOUSANDTHS = 1000  # integers hold generated faces in these


def check(recorded: RecordedFile) -> Iterator[Output]:
    families = "image|points3_|res|M|crop|face|generated|restored|mask_area|blur_size|blur_sigma"
    for number in recorded.cases(families, "eroded", "soft_mask", "upsized_row"):
        yield from _Case(recorded, number).outputs()


class _Case:
    """One face of the file."""

    def __init__(self, recorded: RecordedFile, number: str) -> None:
        self._recorded, self._number = recorded, number
        self._seam = cache(self._find_seam)

    def outputs(self) -> Iterator[Output]:
        yield self._output("M", MATRIX, self._matrix)
        yield self._output("crop", _CROP, self._crop, "uint8")
        yield self._output("face", EXACT, self._face, "uint8")
        yield self._output("restored", _RESTORED, self._restored, "uint8")
        yield self._output("mask_area", Tolerance(1e-5, relative=True), self._area, "float64")
        yield self._output("blur_size", EXACT, self._blur_size, "int")
        yield self._output("blur_sigma", Tolerance(1e-9), self._blur_sigma, "float64")
        yield self._output("eroded", _MASK, lambda: self._seam()[0], "float16")
        yield self._output("soft_mask", _MASK, lambda: self._seam()[1], "float16")
        if f"upsized_row{self._number}" in self._recorded:  # of some cases
            yield self._output("upsized_row", Tolerance(1e-4), self._middle_row)

    def _output(
        self, family: str, tolerance: Tolerance, make: Callable[[], Array], dtype: str = "float32"
    ) -> Output:
        return Output(f"{family}{self._number}", tolerance, make, dtype)

    def _read(self, family: str, *dtypes: str) -> Array:
        return self._recorded.read(f"{family}{self._number}", *dtypes)

    @property
    def _resolution(self) -> int:
        return int(self._recorded.read_number(f"res{self._number}", "int"))

    @property
    def _frame(self) -> Array:
        return self._read("image", "uint8")

    @property
    def _generated(self) -> Array:
        face = self._read("generated", "float32", "int")
        return face if face.dtype == np.float32 else face.astype(np.float32) / _THOUSANDTHS

    def _matrix(self) -> Array:
        return align(self._read("points3_", "float64")[None], self._resolution)[0]

    def _crop(self) -> Array:
        return cut_crop(self._frame, self._read("M", "float32"), self._resolution)

    def _face(self) -> Array:
        return fit_crop(self._read("crop", "uint8"), self._resolution)

    def _restored(self) -> Array:
        return restore_face(self._frame, self._generated, self._read("M", "float32"))

    def _middle_row(self) -> Array:
        fitted = fit_face(self._generated)
        return fitted[:, fitted.shape[1] // 2]

    def _area(self) -> Array:
        return np.array(self._seam()[2].area)

    def _blur_size(self) -> Array:
        return np.array(2 * self._seam()[2].width + 1)

    def _blur_sigma(self) -> Array:
        return np.array(0.3 * (self._seam()[2].width - 1) + 0.8)

    def _find_seam(self) -> tuple[Array, Array, SeamMask]:
        """Return coverage and soft mask of the whole frame, which the package has of a region."""
        frame, source = self._frame.shape[:2], crop_size(self._resolution)[::-1]
        to_frame = invert(self._read("M", "float32"))
        window = window_of(to_frame, source, frame)
        places = place_pixels(to_frame, source, frame, window)
        mask = seam_mask(sample(torch.ones(2, *source), places, outside=0.0)[-1].numpy())
        whole = np.zeros((2, *frame), np.float32)
        whole[0][window], whole[1][window] = mask.coverage, mask.soft
        return whole[0], whole[1], mask

"""detector/cases.npz: every step of finding a face and its landmarks, in whole frames."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from functools import cache, cached_property, partial
from typing import Any

import numpy as np

from latentsync.face.landmarks106 import Landmarks106, crop_matrices, cut_crop, place_landmarks
from latentsync.face.scrfd import (
    STRIDES,
    DetectedFaces,
    ScrfdDetector,
    decode_faces,
    find_candidates,
    fit_picture,
    fit_scale,
    fit_size,
    to_input,
)
from latentsync.pipelines.lipsync.alignment import choose_largest, points3, round_landmarks
from tests.parity.output import Output
from tests.parity.recorded import Array, RecordedFile
from tests.parity.tolerance import EXACT, EXACT_COUNT, LABELS, Tolerance

_RAW = Tolerance(1e-4)
_MATRIX = Tolerance(1e-9, relative=True)
_LANDMARKS = Tolerance(1e-3)  # pixels, from recorded boxes and outputs
_END_BOXES = Tolerance(2e-3)  # pixels, from the frame
_END_LANDMARKS = Tolerance(0.6)  # pixels, from the frame
_KINDS = {"score": slice(0, 1), "box": slice(1, 5), "kps": slice(5, 15)}  # columns of the table
_FAMILIES = (
    "resized_wh|det_scale|det_input_crc32|det_input|blob_sample|raw_sample|cand_rows|cand_raw|"
    "boxes|scores|kps|crop_M|crop_crc32|chosen_crop|lm_raw|lm106|chosen|chosen_lm106_int|points3|"
    r"raw_(?:score|box|kps)\d+"
)


class Cases:
    """Checks the frames of one folder.

    Args:
        recorded: cases.npz.
        images: images.npz.
        detector: opens the stand-in detector.
        landmarker: opens the stand-in landmark network.
    """

    def __init__(
        self,
        recorded: RecordedFile,
        images: RecordedFile,
        detector: Callable[[], ScrfdDetector],
        landmarker: Callable[[], Landmarks106],
    ) -> None:
        self._recorded, self._images = recorded, images
        self._detector, self._landmarker = cache(detector), cache(landmarker)

    def outputs(self) -> Iterator[Output]:
        yield from image_names(self._recorded, self._images)
        pictures = [match[1] for match in self._images.numbered(r"image_(\d+)")]
        cases = [match[1] for match in self._recorded.numbered(rf"(?:{_FAMILIES})_(\d+)")]
        for number in dict.fromkeys(pictures + cases):
            frame = partial(self._images.read, f"image_{number}", "uint8")
            yield from _Case(
                self._recorded, number, frame, self._detector, self._landmarker
            ).outputs()


def image_names(recorded: RecordedFile, images: RecordedFile) -> Iterator[Output]:
    """Check that ``names``, where ``recorded`` has it, holds a name for every picture."""
    if "names" in recorded:
        count = len(list(images.numbered(r"image_\d+")))
        yield Output("names", LABELS, lambda: np.full(count, ""), "str")


class _Case:
    """One frame; every step starts from the recorded result of the step before."""

    def __init__(
        self,
        recorded: RecordedFile,
        number: str,
        frame: Callable[[], Array],
        detector: Callable[[], ScrfdDetector],
        landmarker: Callable[[], Landmarks106],
    ) -> None:
        self._recorded, self._number = recorded, number
        self._read_frame, self._detector, self._landmarker = frame, detector, landmarker

    def outputs(self) -> Iterator[Output]:
        yield from self._input_steps()
        yield from self._network_steps()
        yield from self._face_steps()
        yield from self._landmark_steps()
        yield from self._choice_steps()
        yield from self._end_to_end()

    def _input_steps(self) -> Iterator[Output]:
        size = lambda: fit_size(*self._frame.shape[:2])  # noqa: E731
        picture = lambda: fit_picture(self._frame)  # noqa: E731
        yield self._output("resized_wh", EXACT, lambda: np.array(size()[::-1]), "int")
        yield self._output(
            "det_scale", EXACT, lambda: np.array(fit_scale(*self._frame.shape[:2])), "float64"
        )
        yield self._output("det_input_crc32", EXACT_COUNT, lambda: _checksum(picture()), "int")
        yield from self._if_there("det_input", EXACT, picture, "uint8")
        blob = lambda: to_input(picture())[:, :, 5::29, 3::29]  # noqa: E731
        yield self._output("blob_sample", EXACT, blob)

    def _network_steps(self) -> Iterator[Output]:
        yield self._output("raw_sample", _RAW, lambda: self._table[11::101])
        yield self._output("cand_rows", EXACT, lambda: find_candidates(self._table), "int")
        yield self._output("cand_raw", _RAW, lambda: self._table[find_candidates(self._table)])
        ends = np.cumsum([2 * (512 // stride) ** 2 for stride in STRIDES])
        for stride, end, start in zip(STRIDES, ends, [0, *ends], strict=False):
            for kind, columns in _KINDS.items():
                make = partial(self._slice, slice(start, end), columns)
                yield from self._if_there(f"raw_{kind}{stride}", _RAW, make)

    def _face_steps(self) -> Iterator[Output]:
        yield self._output("boxes", EXACT, lambda: self._decode().boxes)
        yield self._output("scores", EXACT, lambda: self._decode().scores)
        yield self._output("kps", EXACT, lambda: self._decode().keypoints)

    def _landmark_steps(self) -> Iterator[Output]:
        yield self._output("crop_M", _MATRIX, lambda: crop_matrices(self._boxes), "float64")
        yield self._output("crop_crc32", EXACT_COUNT, self._crop_checksums, "int")
        yield self._output("lm_raw", _RAW, self._run_landmarks)
        yield self._output("lm106", _LANDMARKS, self._place)

    def _choice_steps(self) -> Iterator[Output]:
        yield self._output("chosen", EXACT, lambda: np.array(self._choose()), "int")
        yield self._output("chosen_lm106_int", EXACT, self._chosen_landmarks, "int")
        expected = f"chosen_{self._number}" in self._recorded and self._recorded_choice >= 0
        steps = {"chosen_crop": (self._chosen_crop, "uint8"), "points3": (self._points3, "float64")}
        for family, (make, dtype) in steps.items():
            if expected:
                yield self._output(family, EXACT, make, dtype)
            else:
                yield from self._if_there(family, EXACT, make, dtype)

    def _end_to_end(self) -> Iterator[Output]:
        found = cache(lambda: self._detector().detect(self._frame))
        note = "(end to end)"
        yield self._output("boxes", _END_BOXES, lambda: found().boxes, note=note)
        yield self._output("scores", _RAW, lambda: found().scores, note=note)
        yield self._output("kps", _END_BOXES, lambda: found().keypoints, note=note)
        yield self._output("lm106", _END_LANDMARKS, lambda: self._landmarks(found()), note=note)
        chosen = lambda: np.array(_index(choose_largest(found().boxes, found().scores)))  # noqa: E731
        yield self._output("chosen", EXACT, chosen, "int", note=note)

    def _output(
        self,
        family: str,
        tolerance: Tolerance,
        make: Callable[[], Array],
        dtype: str = "float32",
        note: str = "",
    ) -> Output:
        return Output(f"{family}_{self._number}", tolerance, make, dtype, note)

    def _if_there(self, family: str, *rest: Any) -> Iterator[Output]:
        if f"{family}_{self._number}" in self._recorded:  # of some frames only
            yield self._output(family, *rest)

    def _read(self, family: str, dtype: str = "float32") -> Array:
        return self._recorded.read(f"{family}_{self._number}", dtype)

    @property
    def _frame(self) -> Array:
        return self._read_frame()

    @property
    def _boxes(self) -> Array:
        return self._read("boxes")

    @property
    def _recorded_choice(self) -> int:
        return int(self._recorded.read_number(f"chosen_{self._number}", "int"))

    @cached_property
    def _table(self) -> Array:
        return self._detector().run(to_input(fit_picture(self._frame)))

    @cached_property
    def _crops(self) -> Array:
        crops = [cut_crop(self._frame, matrix) for matrix in crop_matrices(self._boxes)]
        return np.stack(crops) if crops else np.zeros((0, 192, 192, 3), np.uint8)

    def _slice(self, rows: slice, columns: slice) -> Array:
        return self._table[rows, columns]

    def _decode(self) -> DetectedFaces:
        rows, raw = self._read("cand_rows", "int"), self._read("cand_raw")
        return decode_faces(rows, raw, scale=fit_scale(*self._frame.shape[:2]))

    def _crop_checksums(self) -> Array:
        return np.array([_checksum(crop) for crop in self._crops], np.uint32)

    def _run_landmarks(self) -> Array:
        if len(self._crops) == 0:
            return np.zeros((0, 212), np.float32)
        return self._landmarker().run(self._crops)

    def _place(self) -> Array:
        return place_landmarks(self._read("lm_raw"), crop_matrices(self._boxes))

    def _landmarks(self, faces: DetectedFaces) -> Array:
        return self._landmarker().landmarks([self._frame] * len(faces.boxes), faces.boxes)

    def _choose(self) -> int:
        return _index(choose_largest(self._boxes, self._read("scores")))

    def _chosen_landmarks(self) -> Array:
        chosen = self._recorded_choice
        landmarks = round_landmarks(self._read("lm106"))
        return landmarks[chosen] if chosen >= 0 else np.zeros((0, 2), np.int64)

    def _chosen_crop(self) -> Array:
        return self._crops[self._recorded_choice]

    def _points3(self) -> Array:
        return points3(self._read("chosen_lm106_int", "int"))


def _index(chosen: int | None) -> int:
    return -1 if chosen is None else chosen


def _checksum(picture: Array) -> Array:
    return np.array(zlib.crc32(picture.tobytes()), np.uint32)

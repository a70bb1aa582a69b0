"""detector/units.npz: single steps of the detector with made-up inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial

import numpy as np

from latentsync.face.landmarks106 import Landmarks106, crop_matrices, cut_crop, place_landmarks
from latentsync.face.scrfd import (
    STRIDES,
    DetectedFaces,
    decode_faces,
    find_candidates,
    fit_scale,
    fit_size,
    suppress_overlaps,
)
from latentsync.pipelines.lipsync.alignment import choose_largest
from tests.parity.output import Output
from tests.parity.recorded import Array, RecordedFile, UnfitArray
from tests.parity.tolerance import EXACT, LABELS, Tolerance

_PIXELS = Tolerance(1e-3)
_ROWS = [2 * (512 // stride) ** 2 for stride in STRIDES]  # of the raw table, per stride
_COLUMNS = 15  # of the raw table: score, four distances, five keypoints
_CROPS = ("crop_image", "crop_boxes", "crop_M", "crop_pixels", "crop_raw", "crop_lm106")


def check(recorded: RecordedFile, landmarker: Callable[[], Landmarks106]) -> Iterator[Output]:
    if "fit_image_hw" in recorded or "fit_resized_wh" in recorded:
        yield Output("fit_resized_wh", EXACT, lambda: _sizes(recorded), "int")
    yield from _decoding(recorded)
    for number in recorded.cases("nms_dets_", "nms_keep_"):
        yield Output(f"nms_keep_{number}", EXACT, partial(_kept, recorded, number), "int")
    if any(name in recorded for name in _CROPS):
        yield from _crops(recorded, cache(landmarker))
    if "rule_chosen" in recorded or recorded.cases("rule_boxes_", "rule_scores_"):
        yield Output("rule_chosen", EXACT, lambda: _choices(recorded), "int")


def _sizes(recorded: RecordedFile) -> Array:
    frames = recorded.read("fit_image_hw", "int")
    return np.array([fit_size(int(height), int(width))[::-1] for height, width in frames])


def _decoding(recorded: RecordedFile) -> Iterator[Output]:
    families = "post_image_hw_|post_level_row_|post_values_|post_boxes_|post_scores_|post_kps_"
    numbers = recorded.cases(families)
    if numbers or "post_names" in recorded:
        yield Output("post_names", LABELS, lambda: np.full(len(numbers), ""), "str")
    for number in numbers:
        faces = cache(partial(_decode, recorded, number))
        yield Output(f"post_boxes_{number}", _PIXELS, lambda faces=faces: faces().boxes)
        yield Output(f"post_scores_{number}", EXACT, lambda faces=faces: faces().scores)
        yield Output(f"post_kps_{number}", _PIXELS, lambda faces=faces: faces().keypoints)


def _decode(recorded: RecordedFile, number: str) -> DetectedFaces:
    levels, rows = recorded.read(f"post_level_row_{number}", "int").T
    if not (np.isin(levels, range(len(STRIDES))).all() and (rows >= 0).all()):
        raise UnfitArray(f"post_level_row_{number} names rows that there are not")
    table = np.zeros((sum(_ROWS), _COLUMNS), np.float32)
    starts = np.cumsum([0, *_ROWS])[:-1]
    table[starts[levels] + rows] = recorded.read(f"post_values_{number}", "float32")
    height, width = recorded.read(f"post_image_hw_{number}", "int")
    found = find_candidates(table)
    return decode_faces(found, table[found], scale=fit_scale(int(height), int(width)))


def _kept(recorded: RecordedFile, number: str) -> Array:
    return suppress_overlaps(recorded.read(f"nms_dets_{number}", "float32")[:, :4])


def _crops(recorded: RecordedFile, landmarker: Callable[[], Landmarks106]) -> Iterator[Output]:
    def matrices() -> Array:
        return crop_matrices(recorded.read("crop_boxes", "float32"))

    def pixels() -> Array:
        frame = recorded.read("crop_image", "uint8")
        return np.stack([cut_crop(frame, matrix) for matrix in matrices()])

    def raw() -> Array:
        return landmarker().run(recorded.read("crop_pixels", "uint8"))

    def landmarks() -> Array:
        return place_landmarks(recorded.read("crop_raw", "float32"), matrices())

    yield Output("crop_M", Tolerance(1e-9, relative=True), matrices, "float64")
    yield Output("crop_pixels", EXACT, pixels, "uint8")
    yield Output("crop_raw", Tolerance(1e-4), raw)
    yield Output("crop_lm106", _PIXELS, landmarks)


def _choices(recorded: RecordedFile) -> Array:
    chosen = []
    for number in sorted(recorded.cases("rule_boxes_", "rule_scores_"), key=int):
        boxes = recorded.read(f"rule_boxes_{number}", "float32")
        found = choose_largest(boxes, recorded.read(f"rule_scores_{number}", "float32"))
        chosen.append(-1 if found is None else found)
    return np.array(chosen)

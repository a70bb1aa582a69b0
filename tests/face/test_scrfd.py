import zlib

import numpy as np
import pytest

from latentsync.face.scrfd import (
    STRIDES,
    ScrfdDetector,
    decode_faces,
    find_candidates,
    fit_picture,
    fit_scale,
    fit_size,
    suppress_overlaps,
    to_input,
)
from tests.face.pictures import blank
from tests.golden_files import FOLDERS, arrays, numbered

PICTURES = [
    pytest.param(folder, number, id=f"{folder.name}-{number}-{index}")
    for index, folder in enumerate(FOLDERS)
    for (number,) in numbered(arrays(folder / "detector/images.npz"), r"image_(\d+)")
]


@pytest.fixture(scope="module")
def detector() -> ScrfdDetector:
    return ScrfdDetector.from_file(FOLDERS[0] / "detector/det_standin.onnx")


def recorded(folder, number):
    """Return the picture and what was recorded for it, by step."""
    suffix = f"_{number}"
    cases = arrays(folder / "detector/cases.npz")
    steps = {name.removesuffix(suffix): cases[name] for name in cases if name.endswith(suffix)}
    return arrays(folder / "detector/images.npz")[f"image_{number}"], steps


@pytest.fixture(scope="module")
def units() -> dict[str, np.ndarray]:
    return arrays(FOLDERS[0] / "detector/units.npz")


@pytest.mark.parametrize(("folder", "number"), PICTURES)
def test_the_picture_is_fitted_bit_by_bit(folder, number):
    frame, steps = recorded(folder, number)
    height, width = frame.shape[:2]
    assert fit_size(height, width) == (steps["resized_wh"][1], steps["resized_wh"][0])
    assert fit_scale(height, width) == steps["det_scale"]
    picture = fit_picture(frame)
    assert zlib.crc32(picture.tobytes()) == steps["det_input_crc32"]
    sampled = to_input(picture)[:, :, 5::29, 3::29]
    np.testing.assert_array_equal(sampled, steps["blob_sample"])


@pytest.mark.parametrize(("folder", "number"), PICTURES)
def test_the_network_says_what_it_said(detector, folder, number):
    frame, steps = recorded(folder, number)
    table = detector.run(to_input(fit_picture(frame)))
    np.testing.assert_allclose(table[11::101], steps["raw_sample"], atol=1e-4)
    rows = find_candidates(table)
    np.testing.assert_array_equal(rows, steps["cand_rows"])
    np.testing.assert_allclose(table[rows], steps["cand_raw"], atol=1e-4)


@pytest.mark.parametrize(("folder", "number"), PICTURES)
def test_recorded_values_become_the_recorded_faces(folder, number):
    frame, steps = recorded(folder, number)
    faces = decode_faces(steps["cand_rows"], steps["cand_raw"], scale=fit_scale(*frame.shape[:2]))
    np.testing.assert_array_equal(faces.boxes, steps["boxes"])
    np.testing.assert_array_equal(faces.scores, steps["scores"])
    np.testing.assert_array_equal(faces.keypoints, steps["kps"])


@pytest.mark.parametrize(("folder", "number"), PICTURES)
def test_faces_are_found_from_end_to_end(detector, folder, number):
    frame, steps = recorded(folder, number)
    faces = detector.detect(frame)
    assert faces.boxes.shape == steps["boxes"].shape
    np.testing.assert_allclose(faces.boxes, steps["boxes"], atol=2e-3)
    np.testing.assert_allclose(faces.scores, steps["scores"], atol=1e-4)
    np.testing.assert_allclose(faces.keypoints, steps["kps"], atol=2e-3)


def test_all_nine_outputs_are_read_by_position(detector):
    if len(FOLDERS) == 1:
        pytest.skip("LATENTSYNC_REFERENCE is not set")
    frame, steps = recorded(FOLDERS[-1], 0)
    table, start = detector.run(to_input(fit_picture(frame))), 0
    for stride in STRIDES:
        level = [steps[f"raw_{kind}{stride}"] for kind in ("score", "box", "kps")]
        np.testing.assert_allclose(
            table[start : start + len(level[0])], np.hstack(level), atol=1e-4
        )
        start += len(level[0])
    assert start == len(table)


def test_sizes_are_cut_not_rounded(units):
    for (height, width), wanted in zip(units["fit_image_hw"], units["fit_resized_wh"], strict=True):
        assert fit_size(int(height), int(width)) == (wanted[1], wanted[0]), (height, width)


def test_a_frame_too_narrow_for_the_square_is_searched_all_the_same(detector):
    assert fit_size(2, 2000) == (1, 512)
    assert np.isfinite(detector.detect(blank(2, 2000)).boxes).all()


def test_sparse_outputs_become_the_recorded_faces(units):
    starts = np.cumsum([0, 8192, 2048])
    for case in range(len(units["post_names"])):
        table = np.zeros((10752, 15), np.float32)
        places = units[f"post_level_row_{case}"]
        table[starts[places[:, 0]] + places[:, 1]] = units[f"post_values_{case}"]
        rows = find_candidates(table)
        height, width = units[f"post_image_hw_{case}"]
        faces = decode_faces(rows, table[rows], scale=fit_scale(int(height), int(width)))
        np.testing.assert_array_equal(faces.boxes, units[f"post_boxes_{case}"])
        np.testing.assert_array_equal(faces.scores, units[f"post_scores_{case}"])
        np.testing.assert_array_equal(faces.keypoints, units[f"post_kps_{case}"])


def test_overlapping_boxes_are_dropped_as_recorded(units):
    for (case,) in numbered(units, r"nms_dets_(\d+)"):
        kept = suppress_overlaps(units[f"nms_dets_{case}"][:, :4])
        np.testing.assert_array_equal(kept, units[f"nms_keep_{case}"])


def test_true_colours_are_an_option():
    picture = np.zeros((512, 512, 3), np.uint8)
    picture[..., 0] = 255
    assert to_input(picture)[0, 2, 0, 0] == to_input(picture, true_colors=True)[0, 0, 0, 0] > 0.9

import numpy as np
import pytest

from latentsync.face.alignment import FaceAligner
from latentsync.face.alignment_points import (
    choose_largest,
    mesh_points3,
    points3,
    round_landmarks,
)
from latentsync.face.detector import FaceDetector
from latentsync.face.mask import keep_mask
from latentsync.face.mesh import FaceMesh, FaceRegion
from latentsync.face.topology import CHIN, FOREHEAD, LEFT_EYE_OUTER, LIPS_OUTER, RIGHT_EYE_OUTER
from tests.face.pictures import astronaut, turned
from tests.face.test_scrfd import PICTURES, recorded
from tests.golden_files import FOLDERS, arrays, numbered


@pytest.mark.parametrize(("folder", "number"), PICTURES)
def test_the_recorded_face_is_chosen_and_its_points_found(folder, number):
    _, steps = recorded(folder, number)
    chosen = choose_largest(steps["boxes"], steps["scores"])
    assert (-1 if chosen is None else chosen) == steps["chosen"]
    if chosen is not None:
        landmarks = round_landmarks(steps["lm106"][chosen])
        np.testing.assert_array_equal(landmarks, steps["chosen_lm106_int"])
        np.testing.assert_array_equal(points3(landmarks), steps["points3"])


def test_the_choice_follows_every_recorded_case():
    units = arrays(FOLDERS[0] / "detector/units.npz")
    cases = numbered(units, r"rule_boxes_(\d+)")
    assert len(cases) == len(units["rule_chosen"]) == 30
    for (case,) in cases:
        chosen = choose_largest(units[f"rule_boxes_{case}"], units[f"rule_scores_{case}"])
        assert (-1 if chosen is None else chosen) == units["rule_chosen"][int(case)], case


@pytest.mark.parametrize("folder", FOLDERS, ids=str)
def test_points_are_rounded_twice_to_even(folder):
    golden = arrays(folder / "align.npz")
    for (clip,) in numbered(golden, r"lm106_(\d+)"):
        found = [points3(landmarks) for landmarks in golden[f"lm106_{clip}"]]
        np.testing.assert_array_equal(found, golden[f"points3_{clip}"])
    np.testing.assert_array_equal(points3(golden["rounding_lm106"]), golden["rounding_points3"])


@pytest.mark.parametrize("degrees", [0, -20, 35])
def test_the_mesh_puts_the_mouth_into_the_generated_region(degrees):
    frame = turned(astronaut(), degrees)
    landmarks = _mesh(frame)
    matrix = FaceAligner(256).align(mesh_points3(landmarks))
    in_crop = landmarks[:, :2] @ matrix[:, :2].T + matrix[:, 2]
    in_face = np.rint(in_crop * (256 / 210, 256 / 280)).astype(int)
    kept = keep_mask(256)[in_face[:, 1].clip(0, 255), in_face[:, 0].clip(0, 255)] > 0
    assert not kept[list(LIPS_OUTER)].any()
    assert kept[[RIGHT_EYE_OUTER, LEFT_EYE_OUTER, FOREHEAD]].all()
    assert 200 < in_face[CHIN, 1] < 256
    assert abs(in_face[list(LIPS_OUTER), 0].mean() - 128) < 12


def test_the_mesh_points_are_left_brow_right_brow_and_nose():
    left, right, nose = mesh_points3(_mesh(astronaut()))
    assert left[0] < nose[0] < right[0]
    assert nose[1] > max(left[1], right[1]) + 20


def _mesh(frame):
    mesh = FaceMesh()
    found = max(FaceDetector().search(frame), key=lambda face: face.score)
    landmarks, _ = mesh.landmarks(frame, FaceRegion.from_detection(found))
    for _ in range(3):
        landmarks, _ = mesh.landmarks(frame, FaceRegion.from_landmarks(landmarks))
    return landmarks

import numpy as np
import pytest

from latentsync.face.blazeface import FaceDetector
from latentsync.face.geometry import CHIN, FOREHEAD, LEFT_EYE_OUTER, LIPS_OUTER, RIGHT_EYE_OUTER
from latentsync.face.mesh import FaceMesh, FaceRegion
from latentsync.pipelines.lipsync.alignment import FaceAligner, mesh_points3
from latentsync.pipelines.lipsync.mask import keep_mask
from tests.face.pictures import astronaut, turned


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

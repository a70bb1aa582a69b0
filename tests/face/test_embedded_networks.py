import hashlib
import re
from pathlib import Path

import numpy as np
import pytest

from latentsync.face.onnx import DETECTOR_FILE, MESH_FILE, open_network
from tests.face.pictures import FOLDER, astronaut

ASSETS = Path(__file__).parents[2] / "assets"


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(FOLDER / "golden.npz") as arrays:
        return dict(arrays)


def _input(pixels, scale, offset):
    scaled = pixels * np.float32(scale) + np.float32(offset)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None])


def test_the_mesh_network_computes_what_the_original_does(golden):
    crop = astronaut()[32:224, 28:220].astype(np.float32)
    points, logit = open_network(MESH_FILE).run(None, {"input_1": _input(crop, 1 / 255, 0)})
    np.testing.assert_allclose(points.reshape(468, 3), golden["landmarks"], atol=0.05)
    np.testing.assert_allclose(logit.ravel(), golden["presence_logit"], atol=0.05)


def test_the_detector_network_computes_what_the_original_does(golden):
    picture = astronaut()[::2, ::2].astype(np.float32)
    boxes, logits = open_network(DETECTOR_FILE).run(None, {"input": _input(picture, 1 / 127.5, -1)})
    logits = logits[0, :, 0]
    np.testing.assert_allclose(logits, golden["detector_logits"], atol=0.5)
    best = np.argsort(-golden["detector_logits"])[:8]
    np.testing.assert_allclose(boxes[0, best], golden["detector_boxes"], atol=0.1)


def test_a_network_is_opened_once_per_process():
    assert open_network(MESH_FILE) is open_network(MESH_FILE)


@pytest.mark.parametrize("name", [DETECTOR_FILE, MESH_FILE])
def test_the_licence_record_holds_the_sum_of_the_file(name):
    record = (ASSETS / "LICENCES.md").read_text("utf-8")
    row = re.search(rf"\| `{re.escape(name)}` \|[^|]*\| `([0-9a-f]{{64}})`", record)
    assert row is not None
    assert row[1] == hashlib.sha256((ASSETS / name).read_bytes()).hexdigest()

from pathlib import Path

import pytest

from latentsync.errors import EngineUnavailable
from latentsync.face import onnx
from latentsync.face.landmarks106 import Landmarks106
from latentsync.face.onnx import best_device, get_available_providers, open_model
from latentsync.face.scrfd import ScrfdDetector
from tests.face.pictures import astronaut
from tests.golden_files import GOLDEN

DETECTOR = GOLDEN / "detector/det_standin.onnx"
LANDMARKS = GOLDEN / "detector/landmark_standin.onnx"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<!DOCTYPE html><html><body>404</body></html>", "is a web page"),
        (b"\n  <html>", "is a web page"),
        (b"\xef\xbb\xbf<html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer"),
        (b"", "is empty"),
        (b"   \n", "is empty"),
        (b"\x00" * 5000, r"\(5000 bytes\) is not a complete ONNX network"),
        (DETECTOR.read_bytes()[:60_000], r"\(60000 bytes\) is not a complete ONNX network"),
        (DETECTOR.read_bytes()[:-1], "is not a complete ONNX network"),
    ],
)
def test_what_is_no_network_is_named_with_the_remedy(tmp_path, content, reason):
    path = tmp_path / "det_10g.onnx"
    path.write_bytes(content)
    with pytest.raises(EngineUnavailable, match=rf"^det_10g\.onnx.*{reason}") as caught:
        open_model(path)
    assert "`latentsync weights pull`" in caught.value.message
    assert str(tmp_path) not in caught.value.message


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(EngineUnavailable, match=r"^2d106det\.onnx cannot be read \(No such file"):
        open_model(tmp_path / "2d106det.onnx")


@pytest.mark.parametrize(
    ("network", "path", "reason"),
    [
        (ScrfdDetector, LANDMARKS, "1 inputs and 1 outputs, 1 and 9 are needed"),
        (Landmarks106, DETECTOR, "1 inputs and 9 outputs, 1 and 1 are needed"),
        (
            Landmarks106,
            Path(__file__).parents[2] / "assets/face_landmark.onnx",
            "1 inputs and 2 outputs",
        ),
    ],
)
def test_another_network_is_refused(network, path, reason):
    with pytest.raises(EngineUnavailable, match=f"holds another network: {reason}"):
        network.from_file(path)


@pytest.mark.parametrize("device", ["tpu", "cuda:", "cuda:one", "cpu:0", ""])
def test_an_unknown_device_is_refused(device):
    with pytest.raises(EngineUnavailable, match=f"'{device}' is not a device.*allowed: cpu, cuda"):
        open_model(DETECTOR, device=device)


@pytest.mark.skipif("CUDAExecutionProvider" in get_available_providers(), reason="CUDA is there")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_cuda_is_not_replaced_silently(device):
    with pytest.raises(EngineUnavailable, match="Install onnxruntime-gpu"):
        open_model(DETECTOR, device=device)


@pytest.mark.parametrize(
    ("networks_on", "place"),
    [("cpu", "cpu"), ("mps", "cpu"), ("cuda", "cuda"), ("cuda:1", "cuda:1")],
)
def test_the_face_networks_go_where_torch_is(monkeypatch, networks_on, place):
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnx, "get_available_providers", lambda: providers)
    assert best_device(networks_on) == place


def test_without_cuda_the_face_networks_run_on_the_processor(monkeypatch):
    monkeypatch.setattr(onnx, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert best_device("cuda:1") == "cpu"


@pytest.mark.gpu
@pytest.mark.skipif(
    "CUDAExecutionProvider" not in get_available_providers(), reason="there is no CUDA"
)
def test_cuda_finds_the_same_faces():
    on_cpu = ScrfdDetector.from_file(DETECTOR).detect(astronaut())
    on_cuda = ScrfdDetector.from_file(DETECTOR, device="cuda").detect(astronaut())
    assert on_cuda.boxes == pytest.approx(on_cpu.boxes, abs=0.02)

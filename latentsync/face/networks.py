"""Where the two embedded networks lie and how they are opened."""

from __future__ import annotations

from functools import cache

from latentsync.face.onnx_runtime import InferenceSession, open_session
from latentsync.packaged import find_packaged

DETECTOR_FILE = "face_detection_short_range.onnx"
MESH_FILE = "face_landmark.onnx"


@cache
def open_network(file_name: str) -> InferenceSession:
    """Open an embedded network, once per process, for one thread of the CPU.

    The session may be run from several threads at the same time.

    Raises:
        EngineUnavailable: the file is missing.
    """
    return open_session(find_packaged(f"assets/{file_name}"), ["CPUExecutionProvider"])

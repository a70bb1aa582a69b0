"""Where the two embedded networks lie and how they are opened."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import onnxruntime as ort

from latentsync.errors import EngineUnavailable

DETECTOR_FILE = "face_detection_short_range.onnx"
MESH_FILE = "face_landmark.onnx"

_PACKAGE_DIR = Path(__file__).resolve().parent
_ASSET_DIRS = (
    _PACKAGE_DIR / "assets",  # in an installed wheel
    _PACKAGE_DIR.parents[1] / "assets",  # in a checkout
)


def find_network(file_name: str) -> Path:
    """Return the path of an embedded network; raises EngineUnavailable if it is not there."""
    for folder in _ASSET_DIRS:
        if (folder / file_name).is_file():
            return folder / file_name
    raise EngineUnavailable(f"The embedded face network {file_name} is missing; install again.")


@cache
def open_network(file_name: str) -> ort.InferenceSession:
    """Open an embedded network, once per process, for one thread of the CPU.

    The session may be run from several threads at the same time.

    Raises:
        EngineUnavailable: the file is missing.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    return ort.InferenceSession(
        str(find_network(file_name)), options, providers=["CPUExecutionProvider"]
    )

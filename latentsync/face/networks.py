"""Where the two embedded networks lie and how they are opened."""

from __future__ import annotations

from functools import cache

import onnxruntime as ort

from latentsync.packaged import find_packaged

DETECTOR_FILE = "face_detection_short_range.onnx"
MESH_FILE = "face_landmark.onnx"


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
        str(find_packaged(f"assets/{file_name}")), options, providers=["CPUExecutionProvider"]
    )

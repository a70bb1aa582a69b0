"""The only module that imports onnxruntime, so that its usage telemetry is off in every process.

Since 1.29 the official builds for Linux and macOS start a thread with the import itself, which
reports to Microsoft and keeps an identifier of the machine in the home folder. Its
``disable_telemetry_events()`` comes too late: only the environment is read before that.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Set whatever stood there: anything but 1, true, yes and on, such as "2" or "", leaves it running.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

from onnxruntime import (  # noqa: TID251  (it reads the environment set above)
    InferenceSession,
    SessionOptions,
    get_available_providers,
)

__all__ = ["ERRORS_ONLY", "InferenceSession", "get_available_providers", "open_session"]

ERRORS_ONLY = 3  # a severity of onnxruntime's log


def open_session(
    path: Path,
    providers: Sequence[Any],
    *,
    num_threads: int = 1,
    log_severity: int | None = None,
) -> InferenceSession:
    """Open the network in ``path``.

    Args:
        path: the ONNX file.
        providers: where it may run, in order of preference, as onnxruntime names them.
        num_threads: threads of the processor for one call.
        log_severity: the least that is logged; by default onnxruntime's own (warnings).

    Returns:
        A session that may be run from several threads at the same time.

    Raises:
        Exception: onnxruntime's own, which share no narrower base: the file is not a network.
    """
    options = SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    if log_severity is not None:
        options.log_severity_level = log_severity
    return InferenceSession(str(path), options, providers=list(providers))

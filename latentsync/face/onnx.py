"""Opens ONNX networks, embedded or downloaded; the only module that imports onnxruntime.

It disables onnxruntime's telemetry first. Since 1.29 the official builds for Linux and macOS start
a thread on import that reports to Microsoft and stores an identifier of the machine in the home
folder. ``disable_telemetry_events()`` is too late; only the environment is read before that.
"""

import os
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from latentsync.config import find_packaged
from latentsync.errors import EngineUnavailable

# Overrides other values: everything but 1, true, yes and on leaves telemetry enabled.
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
        providers: onnxruntime's execution providers, in order of preference.
        num_threads: CPU threads of one call.
        log_severity: lowest severity that is logged; by default warnings.

    Returns:
        A session that several threads may run at the same time.

    Raises:
        Exception: the file is not a network; onnxruntime's errors have no common base class.
    """
    options = SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    if log_severity is not None:
        options.log_severity_level = log_severity
    return InferenceSession(str(path), options, providers=list(providers))


_FETCH_AGAIN = "Delete it and run `latentsync weights pull`."
_DEVICE = re.compile(r"cpu|cuda(:(?P<number>\d{1,3}))?")


def open_model(path: Path, *, device: str = "cpu", num_threads: int = 1) -> InferenceSession:
    """Open the network in ``path``.

    Args:
        path: the ONNX file.
        device: ``"cpu"``, ``"cuda"`` or for example ``"cuda:1"``. CUDA requires the package
            ``onnxruntime-gpu`` instead of ``onnxruntime``; there is no silent fallback to the
            CPU.
        num_threads: CPU threads of one call.

    Returns:
        A session that several threads may run at the same time.

    Raises:
        EngineUnavailable: the device is unknown or not available, or the file is missing,
            truncated, a web page or otherwise not a network; the message names the remedy.
    """
    providers = _providers(device)
    _check_content(path)
    try:
        # The published files state wrong sizes, about which onnxruntime would warn.
        session = open_session(path, providers, num_threads=num_threads, log_severity=ERRORS_ONLY)
    except Exception as error:  # onnxruntime's errors have no common base class
        raise EngineUnavailable(
            f"{path.name} ({path.stat().st_size} bytes) is not a complete ONNX network. "
            f"{_FETCH_AGAIN}"
        ) from error
    _check_provider(session, device)
    return session


def best_device(networks_on: str) -> str:
    """Return the best device for ONNX networks: torch's CUDA device if possible, else the CPU.

    Only the package ``onnxruntime-gpu`` supports CUDA.

    Args:
        networks_on: torch's name of its device, such as ``"cuda:1"``, ``"mps"`` or ``"cpu"``.
    """
    return networks_on if networks_on.startswith("cuda") and _has_cuda() else "cpu"


def check_signature(
    session: InferenceSession, name: str, *, input_shape: tuple[int | None, ...], outputs: int
) -> str:
    """Return the name of the only input, after checking that the network is the expected one.

    Args:
        session: the network.
        name: of the network, for the message.
        input_shape: expected shape of the input; None matches any size.
        outputs: expected number of outputs.

    Raises:
        EngineUnavailable: it is another network.
    """
    inputs = session.get_inputs()
    if len(inputs) != 1 or len(session.get_outputs()) != outputs:
        found = f"{len(inputs)} inputs and {len(session.get_outputs())} outputs"
        wanted = f"1 and {outputs} are needed"
    elif not _fits(inputs[0].shape, input_shape):
        found = f"an input of shape {_shape(inputs[0].shape)}"
        wanted = f"{_shape(input_shape)} is needed"
    else:
        return str(inputs[0].name)
    raise EngineUnavailable(f"{name} holds another network: {found}, {wanted}. {_FETCH_AGAIN}")


def _providers(device: str) -> list[Any]:
    known = _DEVICE.fullmatch(device)
    if known is None:
        raise EngineUnavailable(
            f"{device!r} is not a device for ONNX networks; allowed: cpu, cuda, cuda:<number>."
        )
    if device == "cpu":
        return ["CPUExecutionProvider"]
    if not _has_cuda():
        raise EngineUnavailable(
            "The installed onnxruntime has no CUDA provider. Install onnxruntime-gpu "
            "instead, or run the face networks on the cpu."
        )
    # TF32 keeps ten bits of the mantissa: boxes would move by pixels.
    chosen = {"device_id": known["number"] or "0", "use_tf32": "0"}
    return [("CUDAExecutionProvider", chosen), "CPUExecutionProvider"]


def _has_cuda() -> bool:
    return "CUDAExecutionProvider" in get_available_providers()


def _check_content(path: Path) -> None:
    """Raise if the file is missing or obviously something else."""
    try:
        with path.open("rb") as file:
            beginning = file.read(64).lstrip().lower()
    except OSError as error:
        raise EngineUnavailable(
            f"{path.name} cannot be read ({error.strerror}). Run `latentsync weights pull`."
        ) from error
    if not beginning:
        raise EngineUnavailable(f"{path.name} is empty. {_FETCH_AGAIN}")
    if beginning.startswith((b"<", b"\xef\xbb\xbf<")):
        raise EngineUnavailable(
            f"{path.name} is a web page, not an ONNX network: the server it came from answered "
            f"with a page. {_FETCH_AGAIN}"
        )
    if beginning.startswith(b"version https://git-lfs"):
        raise EngineUnavailable(
            f"{path.name} is a Git LFS pointer, not the ONNX network itself. {_FETCH_AGAIN}"
        )


def _check_provider(session: InferenceSession, device: str) -> None:
    """Raise if onnxruntime fell back to the CPU because CUDA did not start."""
    if device != "cpu" and "CUDAExecutionProvider" not in session.get_providers():
        raise EngineUnavailable(
            "onnxruntime could not start CUDA; its log says why (most often a missing cuDNN). "
            "Fix that, or run the face networks on the cpu."
        )


def _fits(shape: list[int | str | None], wanted: tuple[int | None, ...]) -> bool:
    """Compare fixed sizes; dynamic sizes of a network are names or None."""
    return len(shape) == len(wanted) and all(
        want is None or not isinstance(side, int) or side == want
        for side, want in zip(shape, wanted, strict=True)
    )


def _shape(sides: list[int | str | None] | tuple[int | None, ...]) -> str:
    return "x".join(str(side) if isinstance(side, int) else "?" for side in sides)


DETECTOR_FILE = "face_detection_short_range.onnx"
MESH_FILE = "face_landmark.onnx"


@cache
def open_network(file_name: str) -> InferenceSession:
    """Open an embedded network, once per process, with one CPU thread per call.

    Several threads may run the session at the same time.

    Raises:
        EngineUnavailable: the file is missing.
    """
    return open_session(find_packaged(f"assets/{file_name}"), ["CPUExecutionProvider"])

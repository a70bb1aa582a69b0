"""Where networks run and in which type of numbers; torch is imported only when it is asked.

Whether this is a GPU machine is seen at the driver's device files, so a machine without a GPU never
waits for torch, and a GPU that torch cannot use is told from no GPU at all.
"""

from __future__ import annotations

import glob
import sys
from typing import TYPE_CHECKING

from latentsync.engines import AUTO_ON_GPU, engine_spec
from latentsync.errors import EngineUnavailable
from latentsync.installation import (
    explain_import_failure,
    install_command,
    is_cpu_build,
    is_installed,
)

if TYPE_CHECKING:
    import torch

_NVIDIA_FILES = "/dev/nvidia[0-9]*"
_OTHER_GPU_FILES = ("/dev/kfd", "/dev/dxg")  # AMD; Windows' Linux: torch knows whether it can
_BOARD_FILES = ("/dev/nvmap", "/dev/nvhost-gpu")  # NVIDIA's small boards, which auto leaves alone
_UNUSABLE = "the installed torch cannot use it (driver or CPU build)"
_HALF_PRECISION_SINCE = 7  # CUDA compute capability with fast float16: V100, T4 and later


def has_cuda() -> bool:
    """Tell whether this is a GPU machine.

    Raises:
        EngineUnavailable: there is an NVIDIA GPU, but torch is missing or cannot use it. It is not
            taken for a machine without one: nobody rents a GPU to run without it.
    """
    nvidia = _is_there(_NVIDIA_FILES)
    if not nvidia and not _is_there(*_OTHER_GPU_FILES):
        return False
    if not is_installed("torch"):
        return _refuse_if(nvidia, _not_installed())
    try:
        import torch
    except Exception as error:  # whatever a broken installation raises
        if (fault := explain_import_failure(error, engine_spec(AUTO_ON_GPU).extra)) is None:
            raise
        if nvidia:
            raise EngineUnavailable(f"This machine has an NVIDIA GPU. {fault}") from error
        return False
    if torch.cuda.is_available():
        return True
    return _refuse_if(nvidia, _UNUSABLE)


def find_gpu_obstacle() -> str | None:
    """Return why :func:`has_cuda` refuses, as far as it shows without importing torch."""
    if not _is_there(_NVIDIA_FILES):
        return None
    if not is_installed("torch"):
        return _refusal(_not_installed())
    return _refusal(_UNUSABLE) if is_cpu_build("torch") else None


def may_have_cuda() -> bool | None:
    """Tell what :func:`has_cuda` says; None where only torch knows, which is not asked."""
    if _is_there(_NVIDIA_FILES):
        return True
    return None if _is_there(*_OTHER_GPU_FILES) and is_installed("torch") else False


def find_device_obstacle(device: str, dtype: str) -> str | None:
    """Return why networks cannot run as the settings say, as far as it shows without torch.

    Args:
        device: the setting of that name.
        dtype: likewise.
    """
    if device == "auto":
        return find_gpu_obstacle()
    if device == "cpu":
        return _cpu_obstacle(dtype)
    if device == "mps":
        return None if sys.platform == "darwin" else "There is no device mps here."
    if not _is_there(_NVIDIA_FILES, *_OTHER_GPU_FILES, *_BOARD_FILES):
        return f"There is no device {device} here: this machine shows no GPU."
    if is_cpu_build("torch"):
        return f"There is no device {device} here: the installed torch is built for CPUs only."
    return None


def choose_device(setting: str) -> torch.device:
    """Return the device named by the setting; ``auto`` takes CUDA, else Apple's, else the CPU.

    Raises:
        EngineUnavailable: it is not there, or ``auto`` on a machine whose NVIDIA GPU torch cannot
            use.
    """
    import torch

    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if setting == "auto":
        has_cuda()  # refuses a GPU that cannot be used, rather than to take the CPU
        return torch.device(next(kind for kind, there in available.items() if there))
    device = torch.device(setting)
    numbers = torch.cuda.device_count() if device.type == "cuda" else 1
    if not available[device.type] or (device.index or 0) >= numbers:
        found = ", ".join(kind for kind, there in available.items() if there)
        raise EngineUnavailable(f"There is no device {setting} here; found: {found}.")
    return device


def choose_dtype(setting: str, device: torch.device) -> torch.dtype:
    """Return the type of weights and values; ``auto`` is float16 on GPUs that are fast in it.

    Raises:
        EngineUnavailable: half precision on the CPU, where it is slower than float32.
    """
    import torch

    if setting == "auto":
        fast = device.type == "cuda" and _capability(device) >= _HALF_PRECISION_SINCE
        return torch.float16 if fast else torch.float32
    if device.type == "cpu" and (reason := _cpu_obstacle(setting)) is not None:
        raise EngineUnavailable(reason)
    dtype: torch.dtype = getattr(torch, setting)
    return dtype


def _capability(device: torch.device) -> int:
    import torch

    return torch.cuda.get_device_capability(device)[0]


def _is_there(*patterns: str) -> bool:
    return any(map(glob.glob, patterns))


def _cpu_obstacle(dtype: str) -> str | None:
    if dtype in ("auto", "float32"):
        return None
    return f"The CPU computes in float32 only, not in {dtype}."


def _not_installed() -> str:
    return f"torch is not installed: {install_command(engine_spec(AUTO_ON_GPU).extra)}"


def _refusal(reason: str) -> str:
    return (
        f"This machine has an NVIDIA GPU, but {reason}. Mend that, or ask for the engine draft "
        "(LATENTSYNC_ENGINE=draft)."
    )


def _refuse_if(nvidia: bool, reason: str) -> bool:
    if nvidia:
        raise EngineUnavailable(_refusal(reason))
    return False

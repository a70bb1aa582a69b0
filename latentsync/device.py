"""Where networks run and in which type of numbers; torch is imported only when it is asked.

Whether this is a GPU machine is seen at the driver's device files, so a machine without a GPU never
waits for torch, and a GPU that torch cannot use is told from no GPU at all.
"""

from __future__ import annotations

import glob
from importlib.util import find_spec
from typing import TYPE_CHECKING

from latentsync.errors import EngineUnavailable

if TYPE_CHECKING:
    import torch

_NVIDIA_FILES = "/dev/nvidia[0-9]*"
_OTHER_GPU_FILES = ("/dev/kfd", "/dev/dxg")  # AMD; Windows' Linux: torch knows whether it can
_HALF_PRECISION_SINCE = 7  # CUDA compute capability with fast float16: V100, T4 and later


def has_cuda() -> bool:
    """Tell whether this is a GPU machine.

    Raises:
        EngineUnavailable: there is an NVIDIA GPU, but torch is missing or cannot use it. It is not
            taken for a machine without one: nobody rents a GPU to run without it.
    """
    nvidia = bool(glob.glob(_NVIDIA_FILES))
    if not nvidia and not any(map(glob.glob, _OTHER_GPU_FILES)):
        return False
    if find_spec("torch") is None:
        return _refuse_if(nvidia, "torch is not installed: pip install 'latentsync[models]'")
    import torch

    if torch.cuda.is_available():
        return True
    return _refuse_if(nvidia, "the installed torch cannot use it (driver or CPU build)")


def choose_device(setting: str) -> torch.device:
    """Return the device named by the setting; ``auto`` takes CUDA, else Apple's, else the CPU.

    Raises:
        EngineUnavailable: it is not there, torch is not installed, or ``auto`` on a machine whose
            NVIDIA GPU torch cannot use.
    """
    require_models()
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
    if device.type == "cpu" and setting != "float32":
        raise EngineUnavailable(f"The CPU computes in float32 only, not in {setting}.")
    dtype: torch.dtype = getattr(torch, setting)
    return dtype


def require_models() -> None:
    """Raise EngineUnavailable unless the packages of the diffusion engines are installed."""
    missing = [name for name in ("torch", "diffusers", "accelerate") if find_spec(name) is None]
    if missing:
        raise EngineUnavailable(
            f"The LatentSync engines need {', '.join(missing)}: pip install 'latentsync[models]'. "
            "The engine draft runs without."
        )


def _capability(device: torch.device) -> int:
    import torch

    return torch.cuda.get_device_capability(device)[0]


def _refuse_if(nvidia: bool, reason: str) -> bool:
    if nvidia:
        raise EngineUnavailable(
            f"This machine has an NVIDIA GPU, but {reason}. Mend that, or ask for the engine draft "
            "(LATENTSYNC_ENGINE=draft)."
        )
    return False

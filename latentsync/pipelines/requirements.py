"""Requirements of the engines on this machine: installed packages and a device."""

from __future__ import annotations

import glob
import re
import sys
import traceback
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import TYPE_CHECKING

from latentsync.errors import EngineUnavailable, install_command
from latentsync.schema.engines import AUTO_ON_GPU, engine_spec

_OWN = "latentsync"
_FOLDERS = re.compile(r"(?<![\w.])/(?:[^\s/'\"():,;]+/)+")
_CAUSE_CHARACTERS = 200


def is_installed(package: str) -> bool:
    """Return whether a package can be found, without importing it."""
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):  # raised by import hooks or damaged packages
        return False


def missing_packages(packages: Iterable[str]) -> list[str]:
    """Return those that cannot be found."""
    return [name for name in packages if not is_installed(name)]


def is_cpu_build(package: str) -> bool:
    """Return whether the installed version of torch or its like is a build for CPUs only."""
    try:
        return version(package).endswith("+cpu")
    except PackageNotFoundError:
        return False


def explain_missing(packages: Iterable[str], extra: str | None) -> str:
    """Return which packages are not installed and the command that installs them."""
    *others, last = packages
    names = f"{', '.join(others)} and {last}" if others else last
    verb = "are" if others else "is"
    return f"It needs {names}, which {verb} not installed: {install_command(extra)}."


def explain_import_failure(error: Exception, extra: str | None) -> str | None:
    """Return why a package cannot be imported.

    Args:
        error: raised while this package's own modules were imported.
        extra: the extra that installs their dependencies.

    Returns:
        The package and the cause, without folders; None if the error is one of this package.
    """
    if isinstance(error, ModuleNotFoundError) and error.name and not _is_own(error.name):
        return explain_missing([error.name.partition(".")[0]], extra)
    package = _failed_package(error)
    if package is None:
        return None
    said = " ".join(_FOLDERS.sub("", str(error)).split())[:_CAUSE_CHARACTERS]
    return (
        f"It needs {package}, which is installed but cannot be imported "
        f"({type(error).__name__}: {said}). Reinstall it or its dependencies."
    )


def _failed_package(error: Exception) -> str | None:
    """Return the first other package in the traceback of the error."""
    if isinstance(error, ImportError) and error.name:
        return None if _is_own(error.name) else error.name.partition(".")[0]
    for frame, _ in traceback.walk_tb(error.__traceback__):
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if package not in (_OWN, *sys.stdlib_module_names):
            return package
    return None


def _is_own(module: str) -> bool:
    return module.partition(".")[0] == _OWN


if TYPE_CHECKING:
    import torch

_NVIDIA_FILES = "/dev/nvidia[0-9]*"
_OTHER_GPU_FILES = ("/dev/kfd", "/dev/dxg")  # AMD; WSL: only torch knows whether they can be used
_BOARD_FILES = ("/dev/nvmap", "/dev/nvhost-gpu")  # Jetson boards, which auto does not use
_UNUSABLE = "the installed torch cannot use it (driver or CPU build)"
_HALF_PRECISION_SINCE = 7  # CUDA compute capability with fast float16: V100, T4 and later


def has_cuda() -> bool:
    """Return whether this machine has a GPU that torch can use.

    Raises:
        EngineUnavailable: there is an NVIDIA GPU, but torch is missing or cannot use it. There is
            no silent fallback to the CPU.
    """
    nvidia = _is_there(_NVIDIA_FILES)
    if not nvidia and not _is_there(*_OTHER_GPU_FILES):
        return False
    if not is_installed("torch"):
        return _refuse_if(nvidia, _not_installed())
    try:
        import torch
    except Exception as error:  # a broken installation raises anything
        if (fault := explain_import_failure(error, engine_spec(AUTO_ON_GPU).extra)) is None:
            raise
        if nvidia:
            raise EngineUnavailable(f"This machine has an NVIDIA GPU. {fault}") from error
        return False
    if torch.cuda.is_available():
        return True
    return _refuse_if(nvidia, _UNUSABLE)


def find_gpu_obstacle() -> str | None:
    """Return why :func:`has_cuda` raises, as far as known without importing torch."""
    if not _is_there(_NVIDIA_FILES):
        return None
    if not is_installed("torch"):
        return _refusal(_not_installed())
    return _refusal(_UNUSABLE) if is_cpu_build("torch") else None


def may_have_cuda() -> bool | None:
    """Return the result of :func:`has_cuda` without importing torch; None if torch is needed."""
    if _is_there(_NVIDIA_FILES):
        return True
    return None if _is_there(*_OTHER_GPU_FILES) and is_installed("torch") else False


def find_device_obstacle(device: str, dtype: str) -> str | None:
    """Return why the networks cannot run with these settings, as far as known without torch.

    Args:
        device: the setting ``device``.
        dtype: the setting ``dtype``.
    """
    if device == "auto":
        return find_gpu_obstacle()
    if device == "cpu":
        return _cpu_obstacle(dtype)
    if device == "mps":
        return None if sys.platform == "darwin" else "There is no device mps here."
    if not _is_there(_NVIDIA_FILES, *_OTHER_GPU_FILES, *_BOARD_FILES):
        return f"There is no device {device} here: this machine has no GPU."
    if is_cpu_build("torch"):
        return f"There is no device {device} here: the installed torch is built for CPUs only."
    return None


def choose_device(setting: str) -> torch.device:
    """Return the device of the setting; ``auto`` is CUDA, else MPS, else the CPU.

    Raises:
        EngineUnavailable: there is no such device, or torch cannot use the NVIDIA GPU of the
            machine.
    """
    import torch

    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if setting == "auto":
        has_cuda()  # raises for a GPU that torch cannot use
        return torch.device(next(kind for kind, there in available.items() if there))
    device = torch.device(setting)
    numbers = torch.cuda.device_count() if device.type == "cuda" else 1
    if not available[device.type] or (device.index or 0) >= numbers:
        found = ", ".join(kind for kind, there in available.items() if there)
        raise EngineUnavailable(f"There is no device {setting} here; found: {found}.")
    return device


def choose_dtype(setting: str, device: torch.device) -> torch.dtype:
    """Return the dtype of the networks; ``auto`` is float16 on GPUs that are fast with it.

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
    return f"The networks run in float32 on the CPU, not in {dtype}."


def _not_installed() -> str:
    return f"torch is not installed: {install_command(engine_spec(AUTO_ON_GPU).extra)}"


def _refusal(reason: str) -> str:
    return (
        f"This machine has an NVIDIA GPU, but {reason}. Fix that, or use the engine draft "
        "(LATENTSYNC_ENGINE=draft)."
    )


def _refuse_if(nvidia: bool, reason: str) -> bool:
    if nvidia:
        raise EngineUnavailable(_refusal(reason))
    return False

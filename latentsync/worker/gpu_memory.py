"""GPU memory of a worker, read through NVML, which neither imports torch nor uses the GPU."""

import logging
import os

from latentsync.jobs.models import DeviceMemory

logger = logging.getLogger(__name__)


class GpuMemory:
    """Reads the memory of one GPU.

    NVML numbers GPUs by their slots, as CUDA does if they are alike or if CUDA_DEVICE_ORDER is
    PCI_BUS_ID.

    Args:
        device: the setting: ``auto``, ``cuda`` or ``cuda:1`` …; others are no NVIDIA GPU.
        visible: the GPUs that CUDA may use, by number or identifier, comma-separated; by default
            ``CUDA_VISIBLE_DEVICES``.
    """

    def __init__(self, device: str, visible: str | None = None) -> None:
        kind, _, number = device.partition(":")
        if visible is None:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        gpu = _choose(int(number or 0), visible) if kind in ("auto", "cuda") else None
        self._gpu = gpu if gpu is not None and _init_nvml() else None

    def read(self) -> DeviceMemory | None:
        """Return the memory as it is now; None without such a GPU, or if NVML fails."""
        if self._gpu is None:
            return None
        import pynvml

        try:
            if self._gpu.isdecimal():
                handle = pynvml.nvmlDeviceGetHandleByIndex(int(self._gpu))
            else:
                handle = pynvml.nvmlDeviceGetHandleByUUID(self._gpu)
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        except pynvml.NVMLError:
            return None
        return DeviceMemory(memory.used, memory.total)


def _choose(number: int, visible: str | None) -> str | None:
    """Return NVML's number or identifier of the GPU that CUDA counts as ``number``."""
    if visible is None:
        return str(number)
    shown = [name.strip() for name in visible.split(",")]
    return shown[number] or None if number < len(shown) else None


def _init_nvml() -> bool:
    try:
        import pynvml
    except ModuleNotFoundError:
        logger.info("GPU memory is not reported: nvidia-ml-py (extra models) is not installed")
        return False
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError_LibraryNotFound:
        return False  # not a machine with an NVIDIA GPU
    except pynvml.NVMLError as error:
        logger.warning("GPU memory is not reported: NVML does not start (%s)", error)
        return False
    return True

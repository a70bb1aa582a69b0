"""Memory of the GPU that a worker has, asked of NVIDIA's driver.

Needs none of the networks' packages: NVML answers any process, and does not touch the GPU.
"""

import ctypes
import logging
import os

from latentsync.jobs.models import DeviceMemory

logger = logging.getLogger(__name__)

_DRIVER = "libnvidia-ml.so.1"
_OK = 0


class GpuMemory:
    """Answers for one device.

    The driver counts GPUs by their slots, as CUDA does if they are alike or if CUDA_DEVICE_ORDER is
    PCI_BUS_ID.

    Args:
        device: the setting: ``auto``, ``cuda`` or ``cuda:1`` …; others are no GPU of NVIDIA's.
        visible: what CUDA shows of this machine's GPUs, as ``CUDA_VISIBLE_DEVICES`` says it: their
            numbers or identifiers; by default that variable.
    """

    def __init__(self, device: str, visible: str | None = None) -> None:
        kind, _, number = device.partition(":")
        if visible is None:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        self._gpu = _choose(int(number or 0), visible) if kind in ("auto", "cuda") else None
        self._driver = None if self._gpu is None else _open_driver()

    def read(self) -> DeviceMemory | None:
        """Return the memory as it is now; None without such a device or an answer of its driver."""
        if self._driver is None or self._gpu is None:
            return None
        handle, memory = ctypes.c_void_p(), _Memory()
        if self._gpu.isdecimal():
            found = self._driver.nvmlDeviceGetHandleByIndex_v2
            status = found(ctypes.c_uint(int(self._gpu)), ctypes.byref(handle))
        else:
            found = self._driver.nvmlDeviceGetHandleByUUID
            status = found(self._gpu.encode(), ctypes.byref(handle))
        if status != _OK:
            return None
        if self._driver.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)) != _OK:
            return None
        return DeviceMemory(memory.used, memory.total)


class _Memory(ctypes.Structure):
    """``nvmlMemory_t`` of the NVML reference."""

    _fields_ = (  # bytes
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    )


def _choose(number: int, visible: str | None) -> str | None:
    """Return the driver's number or identifier of the GPU that CUDA counts as ``number``."""
    if visible is None:
        return str(number)
    shown = [name.strip() for name in visible.split(",")]
    return shown[number] or None if number < len(shown) else None


def _open_driver() -> ctypes.CDLL | None:
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError:
        return None  # not a machine with an NVIDIA GPU
    status = driver.nvmlInit_v2()
    if status != _OK:
        logger.warning("the GPU driver does not answer (NVML status %d)", status)
        return None
    return driver

"""Memory of the GPUs of this machine, asked of NVIDIA's driver, where there is one."""

from __future__ import annotations

import ctypes
import logging

from prometheus_client import CollectorRegistry, Gauge

logger = logging.getLogger(__name__)

_DRIVER = "libnvidia-ml.so.1"
_OK = 0


class _Memory(ctypes.Structure):
    """``nvmlMemory_t`` of the NVML reference."""

    _fields_ = (  # bytes
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    )


class GpuMemory:
    """One figure per GPU and kind; no figure at all without the driver.

    Needs none of the networks' packages: NVML answers any process, and does not touch the GPU.

    Args:
        registry: where the figures go.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._driver = _open_driver()
        if self._driver is not None:
            self._gauge = Gauge(
                "latentsync_device_memory_bytes",
                "Memory of this machine's GPUs",
                ("device", "kind"),
                registry=registry,
            )

    def read(self) -> None:
        """Set the figures."""
        if self._driver is None:
            return
        for number in range(_count(self._driver)):
            memory = _memory(self._driver, number)
            if memory is not None:
                self._gauge.labels(f"cuda:{number}", "used").set(memory.used)
                self._gauge.labels(f"cuda:{number}", "total").set(memory.total)


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


def _count(driver: ctypes.CDLL) -> int:
    count = ctypes.c_uint()
    return count.value if driver.nvmlDeviceGetCount_v2(ctypes.byref(count)) == _OK else 0


def _memory(driver: ctypes.CDLL, number: int) -> _Memory | None:
    device, memory = ctypes.c_void_p(), _Memory()
    if driver.nvmlDeviceGetHandleByIndex_v2(number, ctypes.byref(device)) != _OK:
        return None
    if driver.nvmlDeviceGetMemoryInfo(device, ctypes.byref(memory)) != _OK:
        return None
    return memory

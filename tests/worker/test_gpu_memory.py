"""Which GPU is read, through the real bindings of NVML; most machines lack the driver's library.

Where there is no GPU, a stand-in takes the place of that C library, below the bindings.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import pynvml
import pytest

from latentsync.jobs.models import DeviceMemory
from latentsync.worker.gpu_memory import GpuMemory

GPUS = {0: (1 << 30, 24 << 30), 1: (2 << 30, 80 << 30), "GPU-5e": (3 << 30, 48 << 30)}
OK, NOT_FOUND, UNKNOWN = 0, 6, 999


class Library:
    """The functions of libnvidia-ml.so.1 that are called, with their C arguments."""

    def __init__(self, *, init: int = OK, read: int = OK) -> None:
        self._init_status = init
        self._read_status = read
        self._names = dict(enumerate(GPUS, start=1))

    def nvmlInitWithFlags(self, flags: int) -> int:  # noqa: N802
        assert flags == 0
        return self._init_status

    def nvmlDeviceGetHandleByIndex_v2(self, number: ctypes.c_uint, handle: Any) -> int:  # noqa: N802
        return self._find(number.value, handle)

    def nvmlDeviceGetHandleByUUID(self, name: ctypes.c_char_p, handle: Any) -> int:  # noqa: N802
        return self._find((name.value or b"").decode(), handle)

    def nvmlDeviceGetMemoryInfo(self, handle: Any, memory: Any) -> int:  # noqa: N802
        key = ctypes.cast(handle, ctypes.c_void_p).value
        used, total = GPUS[self._names[key or 0]]
        memory._obj.used, memory._obj.total = used, total
        return self._read_status

    def nvmlErrorString(self, status: int) -> bytes:  # noqa: N802
        return b"Unknown Error"

    def _find(self, name: int | str, handle: Any) -> int:
        for number, known in self._names.items():
            if known == name:
                ctypes.cast(handle, ctypes.POINTER(ctypes.c_void_p))[0] = number
                return OK
        return NOT_FOUND


def load(monkeypatch: pytest.MonkeyPatch, library: Library) -> None:
    """Let the bindings call ``library``, as if they had loaded it."""
    monkeypatch.setattr(pynvml, "nvmlLib", library)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})


@pytest.mark.parametrize(
    ("device", "visible", "gpu"),
    [
        ("auto", None, 0),
        ("cuda", None, 0),
        ("cuda:1", None, 1),
        ("cuda", "1", 1),
        ("cuda:1", "1, 0", 0),
        ("cuda", "GPU-5e", "GPU-5e"),
        ("cuda:1", "1", None),
        ("cuda:7", None, None),
        ("cuda", "", None),
        ("cuda", "-1", None),
        ("cpu", None, None),
        ("mps", None, None),
    ],
)
def test_the_gpu_of_the_setting_is_asked(
    monkeypatch: pytest.MonkeyPatch, device: str, visible: str | None, gpu: int | str | None
) -> None:
    load(monkeypatch, Library())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert GpuMemory(device, visible).read() == (None if gpu is None else DeviceMemory(*GPUS[gpu]))


def test_visible_gpus_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    load(monkeypatch, Library())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert GpuMemory("auto").read() == DeviceMemory(*GPUS[1])


def test_a_failing_call_gives_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    load(monkeypatch, Library(read=UNKNOWN))
    assert GpuMemory("cuda", "0").read() is None


def test_a_driver_that_does_not_start_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    load(monkeypatch, Library(init=UNKNOWN))
    assert GpuMemory("cuda", "0").read() is None
    assert "NVML does not start (Unknown Error)" in caplog.text


def test_a_machine_without_the_driver_has_no_memory_to_report(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def find_nothing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(pynvml, "nvmlLib", None)
    monkeypatch.setattr(pynvml, "CDLL", find_nothing)
    assert GpuMemory("auto").read() is None
    assert caplog.text == ""


def test_a_light_installation_reports_no_memory(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)  # its import fails
    caplog.set_level("INFO", "latentsync")
    assert GpuMemory("auto").read() is None
    assert "nvidia-ml-py (extra models) is not installed" in caplog.text


@pytest.mark.gpu
def test_a_real_gpu_reports_its_memory() -> None:
    memory = GpuMemory("auto").read()
    assert memory is not None
    assert 0 < memory.used_bytes <= memory.total_bytes

"""Which GPU is asked for its memory; the driver is a stand-in, since not every machine has one."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from latentsync.jobs.models import DeviceMemory
from latentsync.worker import gpu_memory
from latentsync.worker.gpu_memory import GpuMemory

GPUS = {0: (1 << 30, 24 << 30), 1: (2 << 30, 80 << 30), "GPU-5e": (3 << 30, 48 << 30)}
OK, NOT_FOUND = 0, 6


class Driver:
    """The calls of NVML that are used, with their C arguments."""

    def __init__(self, status: int = OK) -> None:
        self._status = status
        self._names = dict(enumerate(GPUS, start=1))

    def nvmlDeviceGetHandleByIndex_v2(self, number: ctypes.c_uint, handle: Any) -> int:  # noqa: N802
        return self._find(number.value, handle)

    def nvmlDeviceGetHandleByUUID(self, name: bytes, handle: Any) -> int:  # noqa: N802
        return self._find(name.decode(), handle)

    def nvmlDeviceGetMemoryInfo(self, handle: ctypes.c_void_p, memory: Any) -> int:  # noqa: N802
        used, total = GPUS[self._names[handle.value or 0]]
        memory._obj.used, memory._obj.total = used, total
        return self._status

    def _find(self, name: int | str, handle: Any) -> int:
        for number, known in self._names.items():
            if known == name:
                handle._obj.value = number
                return OK
        return NOT_FOUND


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
    monkeypatch.setattr(gpu_memory, "_open_driver", Driver)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert GpuMemory(device, visible).read() == (None if gpu is None else DeviceMemory(*GPUS[gpu]))


def test_what_cuda_shows_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_memory, "_open_driver", Driver)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert GpuMemory("auto").read() == DeviceMemory(*GPUS[1])


def test_a_driver_that_does_not_answer_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_memory, "_open_driver", lambda: Driver(status=NOT_FOUND))
    assert GpuMemory("cuda", "0").read() is None


def test_a_machine_without_the_driver_has_no_memory_to_tell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gpu_memory, "_DRIVER", "libnothing-of-this-name.so.1")
    assert GpuMemory("auto").read() is None

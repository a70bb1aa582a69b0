from __future__ import annotations

import pytest
import torch
from torch import Tensor

from latentsync.errors import OutOfDeviceMemory
from latentsync.pipelines.batching import AdaptiveBatch, translate_oom


class Device:
    """Squares numbers, and runs out of memory over more than ``room`` of them."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.sizes: list[int] = []

    def work(self, some: slice) -> Tensor:
        numbers = torch.arange(some.start, some.stop)
        self.sizes.append(len(numbers))
        if len(numbers) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return numbers**2


@pytest.mark.parametrize("room", [1, 2, 5, 16])
@pytest.mark.parametrize("count", [1, 7, 16, 17])
def test_the_result_does_not_depend_on_the_memory(room: int, count: int) -> None:
    result = AdaptiveBatch("square numbers", 16).run(Device(room).work, count)
    assert torch.equal(result, torch.arange(count) ** 2)


def test_a_size_that_did_not_fit_is_not_tried_again() -> None:
    batches, device = AdaptiveBatch("square numbers", 8), Device(room=3)
    batches.run(device.work, 5)
    assert device.sizes == [5, 4, 2, 2, 1]
    batches.run(device.work, 4)
    assert max(device.sizes[5:]) == 2


def test_when_not_even_one_fits_the_error_says_what_to_do() -> None:
    with pytest.raises(OutOfDeviceMemory, match="too small to square numbers.*latentsync-1.5"):
        AdaptiveBatch("square numbers", 4).run(Device(room=0).work, 4)


@pytest.mark.parametrize(
    "words",
    [
        "MPS backend out of memory (MPS allocated: 17.9 GB)",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    ],
)
def test_out_of_memory_errors_of_libraries_are_translated(words: str) -> None:
    with pytest.raises(OutOfDeviceMemory), translate_oom("listen"):
        raise RuntimeError(words)


def test_other_errors_pass() -> None:
    def broken(_some: slice) -> Tensor:
        raise RuntimeError("other")

    with pytest.raises(RuntimeError, match="other"):
        AdaptiveBatch("square numbers", 4).run(broken, 4)

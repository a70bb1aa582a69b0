"""Batches that shrink when the device runs out of memory, and a heap that does not grow."""

import ctypes
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor

from latentsync.errors import OutOfDeviceMemory

logger = logging.getLogger(__name__)

# Messages of MPS, cuBLAS and cuDNN, which raise a plain RuntimeError.
_OUT_OF_MEMORY = ("out of memory", "ALLOC_FAILED", "ALLOCATION_FAILED")


class AdaptiveBatch:
    """Runs a network over many items in batches; results do not depend on the batch size.

    Args:
        what: name of the work, for messages.
        size: items per batch; halved permanently when a batch does not fit.
    """

    def __init__(self, what: str, size: int) -> None:
        self._what = what
        self._size = size

    def run(self, work: Callable[[slice], Tensor], count: int) -> Tensor:
        """Return the concatenated results of ``work`` for the items 0 to ``count``.

        Args:
            work: processes a slice of the items; may be called again for the same slice.
            count: number of items, at least one.

        Raises:
            OutOfDeviceMemory: a single item does not fit.
        """
        results: list[Tensor] = []
        done = 0
        while done < count:
            some = slice(done, min(done + self._size, count))
            try:
                results.append(work(some))
                done = some.stop
                continue
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            # After the except block, in which the traceback still references the tensors.
            self._shrink()
        return results[0] if len(results) == 1 else torch.cat(results)

    def _shrink(self) -> None:
        if self._size == 1:
            raise _too_small(self._what + ", even one at a time")
        self._size //= 2
        torch.cuda.empty_cache()
        if torch.backends.mps.is_available():
            torch.mps.empty_cache()
        logger.warning("out of device memory: %s %d at a time from now on", self._what, self._size)


@contextmanager
def translate_oom(what: str) -> Iterator[None]:
    """Raise OutOfDeviceMemory where the device runs out of memory in the block.

    Args:
        what: name of the work, for the message.
    """
    try:
        yield
        return
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    raise _too_small(what)  # after the except block, as above


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether the error means that a device ran out of memory."""
    return isinstance(error, torch.OutOfMemoryError) or any(
        words in str(error) for words in _OUT_OF_MEMORY
    )


def _too_small(what: str) -> OutOfDeviceMemory:
    return OutOfDeviceMemory(
        f"The device's memory is too small to {what}. Use latentsync-1.5, which needs about 8 GB, "
        "or a device with more memory."
    )


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # parameters of mallopt, from malloc.h
_BLOCK_BYTES = 2**20  # larger blocks, such as frames and planes, are mapped separately
_KEPT_BYTES = 2**24  # kept free at the end of the heap: returning memory often is slow


@cache
def give_large_blocks_back() -> None:
    """Make glibc map large blocks separately, so that freed memory returns to the system.

    By default glibc raises its mmap threshold up to 32 MB with every large block that is freed.
    Frames then come from the heap, which fragments and grows with the length of the video. A fixed
    threshold prevents that. It also fixes the trim threshold, which is therefore set as well.
    """
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        if hasattr(library, "mallopt"):  # not in musl
            library.mallopt(_MMAP_THRESHOLD, _BLOCK_BYTES)
            library.mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)

"""Work in portions that become smaller when the device's memory is short.

Keeps the process's memory flat over long videos, where the C library would not.
"""

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

# Apple's device says it in words; so do the libraries of products and convolutions on CUDA.
_OUT_OF_MEMORY = ("out of memory", "ALLOC_FAILED", "ALLOCATION_FAILED")


class AdaptiveBatch:
    """Runs a network over many things, a few at a time; results never depend on how many.

    Args:
        what: the work, for messages.
        size: things at a time; halved for good whenever they do not fit.
    """

    def __init__(self, what: str, size: int) -> None:
        self._what = what
        self._size = size

    def run(self, work: Callable[[slice], Tensor], count: int) -> Tensor:
        """Return the results of ``work`` for things 0 to ``count``, joined.

        Args:
            work: does some of the things; may be called again for the same ones.
            count: number of things, at least one.

        Raises:
            OutOfDeviceMemory: not even one fits.
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
            # Behind the block: within it the traceback still holds what did not fit.
            self._shrink()
        return results[0] if len(results) == 1 else torch.cat(results)

    def _shrink(self) -> None:
        if self._size == 1:
            raise _too_small(self._what + ", even one at a time")
        self._size //= 2
        torch.cuda.empty_cache()
        if torch.backends.mps.is_available():
            torch.mps.empty_cache()
        logger.warning("out of device memory: from now on %s %d at a time", self._what, self._size)


@contextmanager
def translate_oom(what: str) -> Iterator[None]:
    """Turn a device's lack of memory inside the block into OutOfDeviceMemory.

    Args:
        what: the work that does not fit, for the message.
    """
    try:
        yield
        return
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    raise _too_small(what)  # behind the block, as above


def is_out_of_memory(error: RuntimeError) -> bool:
    """Tell whether a device ran out of memory."""
    return isinstance(error, torch.OutOfMemoryError) or any(
        words in str(error) for words in _OUT_OF_MEMORY
    )


def _too_small(what: str) -> OutOfDeviceMemory:
    return OutOfDeviceMemory(
        f"The device's memory is too small to {what}. Use latentsync-1.5, which needs about 8 GB, "
        "or a device with more memory."
    )


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt's numbers for them, from malloc.h
_BLOCK_BYTES = 2**20  # from here on a block is mapped by itself: frames and their planes are
_KEPT_BYTES = 2**24  # of the heap's end: giving it back and taking it again costs more than work


@cache
def give_large_blocks_back() -> None:
    """Make the C library map every large block by itself and return it when it is freed.

    glibc does so at first, but learns from every large block freed to take the next ones of up to
    32 MB from its heap, which only shrinks at its end. Frames then leave holes, and the heap grows
    with the length of the video. A fixed limit ends the learning. It also ends the growth of what
    glibc keeps free at the heap's end for smaller blocks, so that is set, too.
    """
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        if hasattr(library, "mallopt"):  # not in musl
            library.mallopt(_MMAP_THRESHOLD, _BLOCK_BYTES)
            library.mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)

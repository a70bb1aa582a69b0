"""Keeps the process's memory flat over long videos, where the C library would not."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

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

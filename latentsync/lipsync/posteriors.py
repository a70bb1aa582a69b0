"""Keeps what the autoencoder said about faces that come again when a video repeats its frames."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_MOST_BYTES = 256 * 2**20  # on the device: about 2,000 faces at 512 pixels in float16


class PosteriorCache:
    """Posteriors by source frame, kept only while they will be needed again.

    Args:
        source_indices: int64 (frames,), the source frame of every output frame with a face.
        most_bytes: beyond this nothing more is kept; it is computed again then.
    """

    def __init__(self, source_indices: NDArray[np.int64], *, most_bytes: int = _MOST_BYTES) -> None:
        self._left = Counter(source_indices.tolist())
        self._most_bytes = most_bytes
        self._kept: dict[int, Tensor] = {}

    def of(
        self,
        source_indices: NDArray[np.int64],
        encode: Callable[[NDArray[np.int64]], Tensor],
    ) -> Tensor:
        """Return the posteriors of one window's frames, in order, joined.

        Args:
            source_indices: int64 (F,); a frame may be in it more than once.
            encode: computes those of the frames at the given places of the window.
        """
        wanted: list[int] = source_indices.tolist()
        first_places = {index: place for place, index in reversed(list(enumerate(wanted)))}
        new = sorted(place for index, place in first_places.items() if index not in self._kept)
        found = dict(self._kept)
        if new:
            computed = encode(np.array(new, np.int64))
            found |= {wanted[place]: value for place, value in zip(new, computed, strict=True)}
        joined = torch.stack([found[index] for index in wanted])
        self._left.subtract(wanted)
        self._keep({index: found[index] for index in wanted})
        return joined

    def _keep(self, seen: dict[int, Tensor]) -> None:
        for index, value in seen.items():
            if self._left[index] <= 0:
                self._kept.pop(index, None)
            elif index not in self._kept and self._has_room_for(value):
                self._kept[index] = value.clone()  # alone, not as a part of its window

    def _has_room_for(self, value: Tensor) -> bool:
        return (len(self._kept) + 1) * value.numel() * value.element_size() <= self._most_bytes

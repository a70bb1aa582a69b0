"""The windows of frames that the network processes together, and their random numbers."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Window:
    """Output frames ``start`` to before ``stop``; without a face they are not changed."""

    start: int
    stop: int
    has_face: bool

    def __len__(self) -> int:
        return self.stop - self.start


def cut_windows(has_face: NDArray[np.bool_], most_frames: int) -> Iterator[Window]:
    """Yield windows in temporal order, each of at most ``most_frames``.

    Frames with and without a face are never in the same window: a placeholder face would affect
    the neighbouring frames through the temporal attention and the norms. Each run of frames with a
    face is therefore cut separately, and its last window may be shorter.

    Args:
        has_face: bool (frames,).
        most_frames: 16 in the published versions.
    """
    edges = np.flatnonzero(np.diff(has_face)) + 1
    borders = [0, *edges.tolist(), len(has_face)]
    for run_start, run_stop in zip(borders, borders[1:], strict=False):
        for start in range(run_start, run_stop, most_frames):
            stop = min(start + most_frames, run_stop)
            yield Window(start, stop, bool(has_face[start]))


def group_windows(windows: Iterable[Window], most: int) -> Iterator[tuple[Window, ...]]:
    """Yield groups of consecutive windows of equal length with a face, as batches of the network.

    Args:
        windows: in temporal order.
        most: windows per group.
    """
    group: list[Window] = []
    for window in windows:
        if group and (len(group) == most or not _may_share(group[-1], window)):
            yield tuple(group)
            group = []
        group.append(window)
    if group:
        yield tuple(group)


def _may_share(one: Window, other: Window) -> bool:
    return one.has_face and other.has_face and len(one) == len(other)


_LATENT_CHANNELS = 4


class Noise(Protocol):
    """The random numbers of a run, in the order in which LatentSync draws them."""

    @property
    def initial(self) -> Tensor:
        """The initial latents of every frame, (1, 4, 1, h, w)."""
        ...

    def posterior(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Return the noise of the posteriors of output frames, each (frames, 4, h, w).

        First for the masked faces, then for the whole faces. Called once per window, in temporal
        order.
        """
        ...


class SeededNoise:
    """Noise from a seed, reproducible on one kind of device in one dtype for any batch size.

    Args:
        seed: 0 to 2**63 - 1.
        side: of the latents.
        device: draws the numbers; kinds of devices draw different ones.
        dtype: of the numbers.
    """

    def __init__(self, seed: int, side: int, device: torch.device, dtype: torch.dtype) -> None:
        self._generator = torch.Generator(device).manual_seed(seed)
        self._shape = (_LATENT_CHANNELS, side, side)
        self._dtype = dtype
        self._initial = self._draw(1)[:, :, None]

    @property
    def initial(self) -> Tensor:
        """See :class:`Noise`."""
        return self._initial

    def posterior(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """See :class:`Noise`."""
        return self._draw(stop - start), self._draw(stop - start)

    def _draw(self, frames: int) -> Tensor:
        generator = self._generator
        return torch.randn(
            (frames, *self._shape), generator=generator, device=generator.device, dtype=self._dtype
        )

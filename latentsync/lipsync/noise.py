"""The random numbers of a run, in the order in which LatentSync draws them."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

_LATENT_CHANNELS = 4


class Noise(Protocol):
    """Where a run gets its random numbers from."""

    @property
    def initial(self) -> Tensor:
        """What every frame's latents begin as, (1, 4, 1, h, w)."""
        ...

    def posterior(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Return what the latents of output frames are sampled with, each (frames, 4, h, w).

        First for the faces with a hidden mouth, then for the whole faces. Windows ask in the order
        of time, each once.
        """
        ...


class SeededNoise:
    """Noise from a seed: the same on one kind of device in one type, whatever the batch size.

    Args:
        seed: 0 to 2**63 - 1.
        side: of the latents.
        device: where the numbers are drawn; they differ from device to device.
        dtype: in which type they are drawn.
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

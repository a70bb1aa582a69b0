"""Embeddings of the timestep and of the position of a frame in its window."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentsync.errors import InternalError

_MAX_PERIOD = 10000.0  # longest period in steps or frames, divided by 2 pi


def sinusoidal_embedding(timestep: int | Tensor, channels: int, device: torch.device) -> Tensor:
    """Return float32 (1, channels): cosines, then sines, of a geometric series of frequencies.

    Args:
        timestep: noise level 0..999, a number or a tensor of one element.
        channels: even width of the embedding.
        device: of the result.
    """
    half = channels // 2
    # Same order of operations as in training: at timestep 951 the last bit of a frequency changes
    # an angle by up to 6e-5.
    exponents = -math.log(_MAX_PERIOD) * torch.arange(half, dtype=torch.float32, device=device)
    frequencies = torch.exp(exponents / half)
    angles = torch.as_tensor(timestep, dtype=torch.float32, device=device).reshape(1, 1)
    waves = angles * frequencies
    return torch.cat([waves.cos(), waves.sin()], dim=1)


class TimestepEmbedding(nn.Module):
    """Two linear layers from the sinusoids of a timestep to the features for the resnets."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(in_channels, channels)
        self.linear_2 = nn.Linear(channels, channels)

    def forward(self, sinusoids: Tensor) -> Tensor:
        """Map (1, in_channels) to (1, channels)."""
        hidden = F.silu(self.linear_1(sinusoids))
        embedding: Tensor = self.linear_2(hidden)
        return embedding


class PositionTable(nn.Module):
    """Adds a stored table of sinusoids with a row per frame of a window."""

    pe: Tensor

    def __init__(self, channels: int, max_frames: int) -> None:
        super().__init__()
        # The table comes from the checkpoint. Computing it on the meta device would make torch
        # import its compiler, which takes a second.
        self.register_buffer("pe", torch.empty(1, max_frames, channels))

    def forward(self, tokens: Tensor) -> Tensor:
        """Add the table to ``tokens`` (sequences, frames, channels), in place.

        Raises:
            InternalError: the window has more frames than the table has rows.
        """
        num_frames, max_frames = tokens.shape[1], self.pe.shape[1]
        if num_frames > max_frames:
            raise InternalError(
                f"The network takes at most {max_frames} frames at a time; {num_frames} were given."
            )
        return tokens.add_(self.pe[:, :num_frames])


def position_table(channels: int, max_frames: int) -> Tensor:
    """Return float32 (1, max_frames, channels): sines in the even, cosines in the odd channels."""
    positions = torch.arange(max_frames, dtype=torch.float64)[:, None]
    exponents = torch.arange(0, channels, 2, dtype=torch.float64) / channels
    angles = positions * torch.exp(-math.log(_MAX_PERIOD) * exponents)
    return torch.stack([angles.sin(), angles.cos()], dim=2).reshape(1, max_frames, channels).float()

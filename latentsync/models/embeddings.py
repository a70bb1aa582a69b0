"""The time step as a vector."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

_LONGEST_PERIOD = 10_000


def timestep_sinusoids(timesteps: Tensor, dim: int) -> Tensor:
    """Return float32 (n, dim): cosines in the first half, sines in the second."""
    half = dim // 2
    exponents = torch.arange(half, dtype=torch.float32, device=timesteps.device) / half
    angles = timesteps.float()[:, None] * torch.exp(-math.log(_LONGEST_PERIOD) * exponents)
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


class TimestepEmbedding(nn.Module):
    """Two linear layers around a SiLU, on the sinusoids of the time step."""

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.in_dim = in_dim
        self.linear_1 = nn.Linear(in_dim, dim)
        self.act = nn.SiLU()
        self.linear_2 = nn.Linear(dim, dim)

    def forward(self, timesteps: Tensor) -> Tensor:
        """Return (n, dim) for time steps (n,), in the layers' type."""
        sinusoids = timestep_sinusoids(timesteps, self.in_dim).to(self.linear_1.weight.dtype)
        embedding: Tensor = self.linear_2(self.act(self.linear_1(sinusoids)))
        return embedding

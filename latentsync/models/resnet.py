"""Residual blocks and changes of resolution; every convolution sees one frame."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from latentsync.models.norms import FoldedGroupNorm


class ResnetBlock3D(nn.Module):
    """Two convolutions with norms over all frames of a chunk; the time step joins in between.

    Args:
        in_channels: width of the input.
        out_channels: width of the output; a 1x1 convolution bridges different widths.
        time_dim: width of the time embedding.
        num_groups: groups of the norms.
        eps: of the norms.
    """

    def __init__(
        self, in_channels: int, out_channels: int, time_dim: int, num_groups: int, eps: float
    ) -> None:
        super().__init__()
        self.norm1 = FoldedGroupNorm(num_groups, in_channels, eps=eps)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time_emb_proj = nn.Linear(time_dim, out_channels)
        self.norm2 = FoldedGroupNorm(num_groups, out_channels, eps=eps)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = (
            nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None
        )

    def forward(self, hidden_states: Tensor, temb: Tensor, num_frames: int) -> Tensor:
        """Return (B*F, out_channels, H, W); ``temb`` is (B*F or 1, time_dim), before its SiLU."""
        residual = hidden_states
        hidden_states = F.silu(self.norm1(hidden_states, num_frames))
        hidden_states = self.conv1(hidden_states)
        hidden_states = hidden_states + self.time_emb_proj(F.silu(temb))[:, :, None, None]
        hidden_states = F.silu(self.norm2(hidden_states, num_frames))
        hidden_states = self.conv2(hidden_states)
        if self.conv_shortcut is not None:
            residual = self.conv_shortcut(residual)
        return hidden_states + residual


class Downsample3D(nn.Module):
    """Halves height and width."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, hidden_states: Tensor) -> Tensor:
        halved: Tensor = self.conv(hidden_states)
        return halved


class Upsample3D(nn.Module):
    """Doubles height and width."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, hidden_states: Tensor) -> Tensor:
        doubled: Tensor = self.conv(F.interpolate(hidden_states, scale_factor=2.0, mode="nearest"))
        return doubled

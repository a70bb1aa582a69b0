"""The convolutional parts of the UNet: resnet, down- and upsampling of pictures."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from latentsync.models.frames import FrameGroupNorm


class ResnetBlock(nn.Module):
    """Two convolutions with the timestep between them, added to the input.

    Both norms pool over the frames of a window.
    """

    def __init__(
        self, in_channels: int, out_channels: int, temb_channels: int, groups: int, eps: float
    ) -> None:
        super().__init__()
        self.norm1 = FrameGroupNorm(groups, in_channels, eps)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time_emb_proj = nn.Linear(temb_channels, out_channels)
        self.norm2 = FrameGroupNorm(groups, out_channels, eps)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = (
            nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None
        )

    def forward(self, hidden: Tensor, temb: Tensor, num_frames: int) -> Tensor:
        """Map (B*F, in_channels, H, W) to a new tensor (B*F, out_channels, H, W).

        Args:
            hidden: the pictures; not changed.
            temb: activated features of the timestep, (1, temb_channels).
            num_frames: frames F of a window.
        """
        residual = hidden if self.conv_shortcut is None else self.conv_shortcut(hidden)
        hidden = F.silu(self.norm1(hidden, num_frames), inplace=True)
        # The timestep adds one number per channel, as a bias does: one pass less over the values.
        bias = self.conv1.bias + self.time_emb_proj(temb)[0]
        hidden = F.conv2d(hidden, self.conv1.weight, bias, padding=1)
        hidden = F.silu(self.norm2(hidden, num_frames), inplace=True)
        hidden = self.conv2(hidden)
        return hidden.add_(residual)


class Downsample(nn.Module):
    """Halves height and width by a convolution of stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, ceil(H/2), ceil(W/2))."""
        halved: Tensor = self.conv(hidden)
        return halved


class Upsample(nn.Module):
    """Enlarges pictures by repeating pixels, then convolves."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, hidden: Tensor, height: int, width: int) -> Tensor:
        """Map (N, C, h, w) to (N, C, height, width), the size of the next skip connection."""
        hidden = F.interpolate(hidden, size=(height, width), mode="nearest")
        enlarged: Tensor = self.conv(hidden)
        return enlarged

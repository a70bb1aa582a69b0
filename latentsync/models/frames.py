"""The layout of the hidden values of the UNet: frames folded into the batch, channels last.

A picture tensor has the shape (N, C, H, W) with N = B * F, where F is the faster index, and the
memory layout N, H, W, C. Its tokens (N, H*W, C) and the joined frames of a window (B, C, F*H, W)
are views of it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def fold_frames(video: Tensor) -> Tensor:
    """Return (B, C, F, H, W) as pictures (B*F, C, H, W), channels last."""
    return channels_first(video.permute(0, 2, 3, 4, 1).flatten(0, 1).contiguous())


def unfold_frames(pictures: Tensor, num_frames: int) -> Tensor:
    """Return pictures (B*F, C, H, W) as a view (B, C, F, H, W)."""
    return pictures.reshape(-1, num_frames, *pictures.shape[1:]).transpose(1, 2)


def channels_last(pictures: Tensor) -> Tensor:
    """Return (N, C, H, W) as (N, H, W, C): a view in this layout."""
    return pictures.permute(0, 2, 3, 1)


def channels_first(pictures: Tensor) -> Tensor:
    """Return (N, H, W, C) as a view (N, C, H, W) in channels-last memory."""
    return pictures.permute(0, 3, 1, 2)


def to_tokens(pictures: Tensor) -> Tensor:
    """Return (N, C, H, W) as tokens (N, H*W, C): a view in this layout."""
    return channels_last(pictures).flatten(1, 2)


class FrameGroupNorm(nn.GroupNorm):
    """Group norm of pictures, with statistics over one frame or over all frames of a window."""

    def forward(self, pictures: Tensor, num_frames: int = 1) -> Tensor:
        """Normalize (B*F, C, H, W) to a new tensor in channels-last memory.

        Args:
            pictures: the values.
            num_frames: frames F that share statistics; 1 normalizes each frame separately.
        """
        pixels = channels_last(pictures)
        height, width, channels = pixels.shape[1:]
        tall = pixels.reshape(-1, num_frames * height, width, channels)  # (B, F*H, W, C)
        normalize = self._by_kernel if pictures.device.type == "cpu" else self._by_moments
        return channels_first(normalize(tall).view(pixels.shape))

    def _by_kernel(self, tall: Tensor) -> Tensor:
        """Normalize (B, F*H, W, C) with torch's kernel.

        In channels-last memory that kernel computes the variance as mean square minus squared mean,
        which is inaccurate for groups of similar values; so the mean is subtracted before.
        """
        mean = tall.mean((1, 2)).view(len(tall), self.num_groups, -1).mean(2)
        per_channel = mean.repeat_interleave(self.num_channels // self.num_groups, dim=1)
        centred = channels_first(tall - per_channel[:, None, None])
        return channels_last(
            F.group_norm(centred, self.num_groups, self.weight, self.bias, self.eps)
        )

    def _by_moments(self, tall: Tensor) -> Tensor:
        """Normalize (B, F*H, W, C) by moments and one pass that scales and shifts.

        The kernels for accelerators require channels-first memory and would copy the pictures, and
        the next convolution would copy them back.
        """
        batch, height, width, channels = tall.shape
        groups = self.num_groups
        grouped = tall.view(batch, height * width, groups, channels // groups)
        dtype = torch.promote_types(tall.dtype, torch.float32)
        grouped = grouped - grouped.mean((1, 3), keepdim=True)  # as above
        mean = grouped.mean((1, 3), keepdim=True, dtype=dtype)  # (B, 1, G, 1)
        norm = torch.linalg.vector_norm(grouped, dim=(1, 3), keepdim=True, dtype=dtype)
        variance = norm.square() / grouped[0, :, 0].numel() - mean.square()
        gain, bias = (part.to(dtype).view(1, 1, groups, -1) for part in (self.weight, self.bias))
        scale = gain * torch.rsqrt(variance.clamp_min(0) + self.eps)
        # Computed in the dtype of the moments; only the result is rounded to that of the pictures.
        out = torch.empty_like(grouped)
        torch.addcmul(bias - mean * scale, grouped, scale, out=out)
        return out.view(tall.shape)

"""The levels of the UNet: resnets, spatial transformers, motion modules, down- and upsampling."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentsync.models.attention import AudioContext, SpatialTransformer
from latentsync.models.config import CROSS_ATTENTION_BLOCKS, UNetConfig
from latentsync.models.frames import FrameGroupNorm
from latentsync.models.motion_module import MotionModule


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
        # The timestep is one number per channel, so it is added as part of the bias.
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
    """Nearest-neighbour upsampling, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, hidden: Tensor, height: int, width: int) -> Tensor:
        """Map (N, C, h, w) to (N, C, height, width), the size of the next skip connection."""
        hidden = F.interpolate(hidden, size=(height, width), mode="nearest")
        enlarged: Tensor = self.conv(hidden)
        return enlarged


@dataclass(frozen=True)
class BlockInputs:
    """The inputs of every level other than the pictures.

    Attributes:
        temb: activated features of the timestep, (1, channels).
        audio: keys and values for the spatial transformers.
        num_frames: frames F of a window.
    """

    temb: Tensor
    audio: AudioContext
    num_frames: int


class LayeredBlock(nn.Module):
    """The layers of one level; the lists of transformers and motion modules may be empty."""

    resnets: nn.ModuleList
    attentions: nn.ModuleList
    motion_modules: nn.ModuleList

    def run_layer(self, index: int, hidden: Tensor, inputs: BlockInputs) -> Tensor:
        """Map (B*F, C, H, W) through the layer ``index`` to a new tensor."""
        hidden = self.resnets[index](hidden, inputs.temb, inputs.num_frames)
        if self.attentions:
            hidden = self.attentions[index](hidden, inputs.audio)
        if self.motion_modules:
            hidden = self.motion_modules[index](hidden, inputs.num_frames)
        return hidden


class DownBlock(LayeredBlock):
    """One level of the way down.

    Args:
        config: the network.
        level: 0 is the finest.
    """

    def __init__(self, config: UNetConfig, level: int) -> None:
        super().__init__()
        channels = config.block_out_channels
        out, count = channels[level], config.layers_per_block
        first = channels[max(level - 1, 0)]
        self.resnets = nn.ModuleList(
            _build_resnet(config, first if index == 0 else out, out) for index in range(count)
        )
        with_audio = config.down_block_types[level] in CROSS_ATTENTION_BLOCKS
        self.attentions = _build_transformers(config, out, count if with_audio else 0)
        with_motion = config.has_motion(level) and not config.motion_module_decoder_only
        self.motion_modules = _build_motion(config, out, count if with_motion else 0)
        is_last = level == len(channels) - 1
        self.downsamplers = nn.ModuleList([] if is_last else [Downsample(out)])

    def forward(self, hidden: Tensor, inputs: BlockInputs) -> Iterator[Tensor]:
        """Yield the skip connections of this level; the last one is its output."""
        for index in range(len(self.resnets)):
            hidden = self.run_layer(index, hidden, inputs)
            yield hidden
        for downsample in self.downsamplers:
            yield downsample(hidden)


class MidBlock(nn.Module):
    """The coarsest level: a spatial transformer between two resnets."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        channels = config.block_out_channels[-1]
        self.resnets = nn.ModuleList(_build_resnet(config, channels, channels) for _ in range(2))
        self.attentions = _build_transformers(config, channels, 1)
        with_motion = config.use_motion_module and config.motion_module_mid_block
        self.motion_modules = _build_motion(config, channels, 1 if with_motion else 0)

    def forward(self, hidden: Tensor, inputs: BlockInputs) -> Tensor:
        """Map (B*F, C, H, W) to the same shape."""
        hidden = self.resnets[0](hidden, inputs.temb, inputs.num_frames)
        hidden = self.attentions[0](hidden, inputs.audio)
        for motion_module in self.motion_modules:
            hidden = motion_module(hidden, inputs.num_frames)
        settled: Tensor = self.resnets[1](hidden, inputs.temb, inputs.num_frames)
        return settled


class UpBlock(LayeredBlock):
    """One level of the way up; each layer also sees a skip connection.

    Args:
        config: the network.
        level: 0 is the finest.
    """

    def __init__(self, config: UNetConfig, level: int) -> None:
        super().__init__()
        channels = config.block_out_channels
        out, count = channels[level], config.layers_per_block + 1
        self.resnets = nn.ModuleList(
            _build_resnet(config, width, out) for width in _up_widths(config, level)
        )
        kind = config.up_block_types[len(channels) - 1 - level]
        with_audio = kind in CROSS_ATTENTION_BLOCKS
        self.attentions = _build_transformers(config, out, count if with_audio else 0)
        with_motion = config.has_motion(level)
        self.motion_modules = _build_motion(config, out, count if with_motion else 0)
        self.upsamplers = nn.ModuleList([] if level == 0 else [Upsample(out)])

    def forward(self, hidden: Tensor, skips: list[Tensor], inputs: BlockInputs) -> Tensor:
        """Run all layers; removes one tensor per layer from the end of ``skips``."""
        for index in range(len(self.resnets)):
            hidden = self.join(index, hidden, skips.pop(), inputs)
        for upsample in self.upsamplers:
            hidden = upsample(hidden, *skips[-1].shape[-2:])
        return hidden

    def join(self, index: int, hidden: Tensor, skip: Tensor, inputs: BlockInputs) -> Tensor:
        """Run the layer ``index`` on ``hidden`` and ``skip`` joined along the channels."""
        return self.run_layer(index, torch.cat([hidden, skip], dim=1), inputs)


def _up_widths(config: UNetConfig, level: int) -> list[int]:
    """Return the input channels of each resnet of an up level: hidden value plus skip."""
    channels = config.block_out_channels
    coarser, out, finer = (
        channels[min(level + 1, len(channels) - 1)],
        channels[level],
        channels[max(level - 1, 0)],
    )
    current = [coarser, *[out] * config.layers_per_block]
    skips = [*[out] * config.layers_per_block, finer]
    return [sum(pair) for pair in zip(current, skips, strict=True)]


def _build_resnet(config: UNetConfig, in_channels: int, out_channels: int) -> ResnetBlock:
    temb_channels = 4 * config.block_out_channels[0]
    return ResnetBlock(
        in_channels, out_channels, temb_channels, config.norm_num_groups, config.norm_eps
    )


def _build_transformers(config: UNetConfig, channels: int, count: int) -> nn.ModuleList:
    return nn.ModuleList(
        SpatialTransformer(
            channels, config.attention_head_dim, config.cross_attention_dim, config.norm_num_groups
        )
        for _ in range(count)
    )


def _build_motion(config: UNetConfig, channels: int, count: int) -> nn.ModuleList:
    return nn.ModuleList(MotionModule(channels, config.motion_module_kwargs) for _ in range(count))

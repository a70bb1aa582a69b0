"""The levels of the UNet: resnet, spatial transformer and motion module in their order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from latentsync.models.attention import AudioContext, SpatialTransformer
from latentsync.models.config import CROSS_ATTENTION_BLOCKS, UNetConfig
from latentsync.models.motion_module import MotionModule
from latentsync.models.resnet import Downsample, ResnetBlock, Upsample


@dataclass(frozen=True)
class BlockInputs:
    """What every level is given beside its pictures.

    Attributes:
        temb: activated features of the timestep, (1, channels).
        audio: keys and values for the spatial transformers.
        num_frames: frames F of a window.
    """

    temb: Tensor
    audio: AudioContext
    num_frames: int


class LayeredBlock(nn.Module):
    """Layers of one level; lists of transformers and motion modules may be empty."""

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
        """Run all layers; takes as many tensors from the end of ``skips`` as it has layers."""
        for index in range(len(self.resnets)):
            hidden = self.join(index, hidden, skips.pop(), inputs)
        for upsample in self.upsamplers:
            hidden = upsample(hidden, *skips[-1].shape[-2:])
        return hidden

    def join(self, index: int, hidden: Tensor, skip: Tensor, inputs: BlockInputs) -> Tensor:
        """Run the layer ``index`` on ``hidden`` and ``skip`` joined along the channels."""
        return self.run_layer(index, torch.cat([hidden, skip], dim=1), inputs)


def _up_widths(config: UNetConfig, level: int) -> list[int]:
    """Return the input channels of each resnet of an up level: current value plus skip."""
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

"""The levels of the UNet: on the way down, in the middle, on the way up.

In a level every layer is resnet -> spatial transformer (levels that have one) -> motion module.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from latentsync.models.attention import Transformer3DModel
from latentsync.models.config import UNetConfig
from latentsync.models.motion_module import VanillaTemporalModule
from latentsync.models.resnet import Downsample3D, ResnetBlock3D, Upsample3D


class LayeredBlock(nn.Module):
    """Layers of one level; without transformers or motion modules those steps fall away.

    Args:
        config: sizes of the whole network.
        in_widths: channels that enter each resnet.
        width: channels of this level.
        attention: give every layer a spatial transformer.
        motion: give every layer a motion module.
    """

    def __init__(
        self,
        config: UNetConfig,
        in_widths: list[int],
        width: int,
        *,
        attention: bool,
        motion: bool,
    ) -> None:
        super().__init__()
        time_dim = 4 * config.block_out_channels[0]
        groups, eps = config.norm_num_groups, config.norm_eps
        self.resnets = nn.ModuleList(
            ResnetBlock3D(in_width, width, time_dim, groups, eps) for in_width in in_widths
        )
        if attention:
            self.attentions = nn.ModuleList(
                Transformer3DModel(width, config.num_heads, config.cross_attention_dim, groups)
                for _ in in_widths
            )
        if motion:
            self.motion_modules = nn.ModuleList(
                VanillaTemporalModule(width, config.motion_num_heads, config.max_frames)
                for _ in in_widths
            )

    def layer(
        self, index: int, hidden_states: Tensor, temb: Tensor, audio: Tensor, num_frames: int
    ) -> Tensor:
        """Run one layer on (B*F, C, H, W)."""
        hidden_states = self.resnets[index](hidden_states, temb, num_frames)
        if hasattr(self, "attentions"):
            hidden_states = self.attentions[index](hidden_states, audio)
        if hasattr(self, "motion_modules"):
            hidden_states = self.motion_modules[index](hidden_states, num_frames)
        return hidden_states


class DownBlock3D(LayeredBlock):
    """A level on the way down; keeps what the way up will need."""

    def __init__(
        self, config: UNetConfig, in_width: int, width: int, *, attention: bool, downsample: bool
    ) -> None:
        in_widths = [in_width, *[width] * (config.layers_per_block - 1)]
        motion = config.use_motion_module and not config.motion_module_decoder_only
        super().__init__(config, in_widths, width, attention=attention, motion=motion)
        if downsample:
            self.downsamplers = nn.ModuleList([Downsample3D(width)])

    def forward(
        self, hidden_states: Tensor, temb: Tensor, audio: Tensor, num_frames: int
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the result and the skips in the order in which they were made."""
        skips = []
        for index in range(len(self.resnets)):
            hidden_states = self.layer(index, hidden_states, temb, audio, num_frames)
            skips.append(hidden_states)
        if hasattr(self, "downsamplers"):
            hidden_states = self.downsamplers[0](hidden_states)
            skips.append(hidden_states)
        return hidden_states, skips


class MidBlock3D(nn.Module):
    """Resnet, transformer, resnet at the smallest size; no motion module."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        width, time_dim = config.block_out_channels[-1], 4 * config.block_out_channels[0]
        groups, eps = config.norm_num_groups, config.norm_eps
        self.resnets = nn.ModuleList(
            ResnetBlock3D(width, width, time_dim, groups, eps) for _ in range(2)
        )
        self.attentions = nn.ModuleList(
            [Transformer3DModel(width, config.num_heads, config.cross_attention_dim, groups)]
        )

    def forward(
        self, hidden_states: Tensor, temb: Tensor, audio: Tensor, num_frames: int
    ) -> Tensor:
        hidden_states = self.resnets[0](hidden_states, temb, num_frames)
        hidden_states = self.attentions[0](hidden_states, audio)
        result: Tensor = self.resnets[1](hidden_states, temb, num_frames)
        return result


class UpBlock3D(LayeredBlock):
    """A level on the way up; every layer takes one skip, the last one made first."""

    def __init__(
        self,
        config: UNetConfig,
        in_width: int,
        width: int,
        skip_widths: list[int],
        *,
        attention: bool,
        upsample: bool,
    ) -> None:
        currents = [in_width, *[width] * config.layers_per_block]
        in_widths = [
            current + skip for current, skip in zip(currents, reversed(skip_widths), strict=True)
        ]
        super().__init__(
            config, in_widths, width, attention=attention, motion=config.use_motion_module
        )
        if upsample:
            self.upsamplers = nn.ModuleList([Upsample3D(width)])

    def forward(
        self,
        hidden_states: Tensor,
        skips: list[Tensor],
        temb: Tensor,
        audio: Tensor,
        num_frames: int,
    ) -> tuple[Tensor, Tensor]:
        """Take one skip per layer off the end of ``skips``.

        Returns:
            The result, and what entered the last layer before its skip joined.
        """
        before_last = hidden_states
        for index in range(len(self.resnets)):
            before_last = hidden_states
            joined = torch.cat((hidden_states, skips.pop()), dim=1)
            hidden_states = self.layer(index, joined, temb, audio, num_frames)
        if hasattr(self, "upsamplers"):
            hidden_states = self.upsamplers[0](hidden_states)
        return hidden_states, before_last

    def last_layer(
        self, before_last: Tensor, skip: Tensor, temb: Tensor, audio: Tensor, num_frames: int
    ) -> Tensor:
        """Run the last layer alone, on what entered it in an earlier step and a fresh skip."""
        joined = torch.cat((before_last, skip), dim=1)
        return self.layer(len(self.resnets) - 1, joined, temb, audio, num_frames)

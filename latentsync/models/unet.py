"""The UNet of LatentSync: predicts the noise of a chunk of frames from latents and audio.

Stable Diffusion 1's topology with attention to audio instead of text, motion modules that look
along time, and 13 input channels. Inside, frames are folded into the batch and channels lie last in
memory; group norms of the resnets still run over all frames of a chunk, so a frame's result
depends on the frames it shares its chunk with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from latentsync.models.blocks import DownBlock3D, MidBlock3D, UpBlock3D
from latentsync.models.config import UNetConfig
from latentsync.models.embeddings import TimestepEmbedding
from latentsync.models.norms import FoldedGroupNorm


@dataclass(frozen=True)
class UNetOutput:
    """What one call gives.

    Attributes:
        noise_pred: (B, 4, F, H, W).
        features: what entered the last layer of the network; a later call may reuse it.
    """

    noise_pred: Tensor
    features: Tensor


class UNet3DConditionModel(nn.Module):
    """See the module. Build it with :meth:`from_config`."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.block_out_channels
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.time_embedding = TimestepEmbedding(widths[0], 4 * widths[0])
        self.down_blocks = nn.ModuleList(_build_down_blocks(config))
        self.mid_block = MidBlock3D(config)
        self.up_blocks = nn.ModuleList(_build_up_blocks(config))
        self.conv_norm_out = FoldedGroupNorm(config.norm_num_groups, widths[0], eps=config.norm_eps)
        self.conv_out = nn.Conv2d(widths[0], config.out_channels, 3, padding=1)

    @classmethod
    def from_config(cls, config: UNetConfig | Mapping[str, Any]) -> UNet3DConditionModel:
        """Build the network from its sizes, or from a mapping with the published option names.

        Raises:
            EngineUnavailable: the mapping asks for something that this network does not have.
        """
        sizes = config if isinstance(config, UNetConfig) else UNetConfig.from_mapping(config)
        return channels_last(cls(sizes))

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | int,
        encoder_hidden_states: Tensor,
        features: Tensor | None = None,
    ) -> UNetOutput:
        """Predict the noise.

        Args:
            sample: (B, 13, F, H, W): noisy latents 4, mask 1 (1 keeps, 0 generates), masked-face
                latents 4, reference latents 4. H and W are multiples of 8, F is at most 24.
            timestep: the time step, the same for the whole batch.
            encoder_hidden_states: (B*F, 50, 384), the audio of each frame, batch entry by entry.
            features: of an earlier, similar step; only the last layer runs then (DeepCache).
        """
        batch, _, num_frames = sample.shape[:3]
        audio = encoder_hidden_states
        # 1. time
        timesteps = torch.as_tensor(timestep, device=sample.device).reshape(1)
        temb = self.time_embedding(timesteps)  # 1, 4*C0
        # 2. in: frames into the batch
        hidden_states = sample.transpose(1, 2).flatten(0, 1)
        hidden_states = hidden_states.contiguous(memory_format=torch.channels_last)
        hidden_states = self.conv_in(hidden_states)  # B*F, C0, H, W
        # 3. down, middle, up; or the last layer alone
        if features is None:
            hidden_states, features = self._whole_way(hidden_states, temb, audio, num_frames)
        else:
            last: Any = self.up_blocks[-1]
            hidden_states = last.last_layer(features, hidden_states, temb, audio, num_frames)
        # 4. out: frames out of the batch
        hidden_states = F.silu(self.conv_norm_out(hidden_states, num_frames))
        noise_pred = self.conv_out(hidden_states).unflatten(0, (batch, num_frames)).transpose(1, 2)
        return UNetOutput(noise_pred, features)

    def _whole_way(
        self, hidden_states: Tensor, temb: Tensor, audio: Tensor, num_frames: int
    ) -> tuple[Tensor, Tensor]:
        skips = [hidden_states]
        for down_block in self.down_blocks:
            hidden_states, made = down_block(hidden_states, temb, audio, num_frames)
            skips += made
        hidden_states = self.mid_block(hidden_states, temb, audio, num_frames)
        features = hidden_states
        for up_block in self.up_blocks:
            hidden_states, features = up_block(hidden_states, skips, temb, audio, num_frames)
        return hidden_states, features


def channels_last(unet: UNet3DConditionModel) -> UNet3DConditionModel:
    """Lay the weights of convolutions out as the network's tensors lie in memory."""
    unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in stubs
    return unet


def _build_down_blocks(config: UNetConfig) -> list[DownBlock3D]:
    """Every level but the last has transformers and halves the size."""
    widths = config.block_out_channels
    in_widths = [widths[0], *widths[:-1]]
    return [
        DownBlock3D(config, in_width, width, attention=not_last, downsample=not_last)
        for in_width, width, not_last in (
            (in_widths[i], widths[i], i < len(widths) - 1) for i in range(len(widths))
        )
    ]


def _build_up_blocks(config: UNetConfig) -> list[UpBlock3D]:
    """Every level but the first has transformers; every one but the last doubles the size."""
    widths = list(config.block_out_channels)
    last = len(widths) - 1
    skip_widths = _skip_widths(config)
    blocks, in_width = [], widths[-1]
    for index, width in enumerate(reversed(widths)):
        own = skip_widths[-(config.layers_per_block + 1) :]
        del skip_widths[-(config.layers_per_block + 1) :]
        blocks.append(
            UpBlock3D(config, in_width, width, own, attention=index > 0, upsample=index < last)
        )
        in_width = width
    return blocks


def _skip_widths(config: UNetConfig) -> list[int]:
    """Return the widths of all skips in the order in which the way down makes them."""
    widths = config.block_out_channels
    made = [widths[0]]
    for index, width in enumerate(widths):
        made += [width] * config.layers_per_block
        if index < len(widths) - 1:
            made.append(width)
    return made

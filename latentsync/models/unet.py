"""The denoising network: noisy latents, mask and audio in, predicted noise out."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import torch
import torch.nn.functional as F
from accelerate import init_empty_weights
from torch import Tensor, nn

from latentsync.config import to_config
from latentsync.errors import InternalError
from latentsync.models.attention import AudioContext, SpatialTransformer
from latentsync.models.blocks import BlockInputs, DownBlock, MidBlock, UpBlock
from latentsync.models.config import MAX_PERIOD, UNetConfig
from latentsync.models.frames import FrameGroupNorm, fold_frames, unfold_frames
from latentsync.models.unet_checkpoint import LoadReport, load_unet


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
    exponents = -math.log(MAX_PERIOD) * torch.arange(half, dtype=torch.float32, device=device)
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


@dataclass(frozen=True)
class UNetOutput:
    """The output of one pass.

    Attributes:
        sample: the predicted noise, (B, out_channels, F, H, W).
        features: the value before the last layer, (B*F, C, H, W), for ``cached`` of a later pass.
    """

    sample: Tensor
    features: Tensor


class UNet3DConditionModel(nn.Module):
    """Stable Diffusion's UNet over windows of frames, conditioned on audio.

    For inference only: hidden values are modified in place. Build it with :meth:`from_config`,
    then :meth:`load_checkpoint`.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.block_out_channels
        levels = range(len(channels))
        self.conv_in = nn.Conv2d(config.in_channels, channels[0], 3, padding=1)
        self.time_embedding = TimestepEmbedding(channels[0], 4 * channels[0])
        self.down_blocks = nn.ModuleList(DownBlock(config, level) for level in levels)
        self.mid_block = MidBlock(config)
        self.up_blocks = nn.ModuleList(UpBlock(config, level) for level in reversed(levels))
        self.conv_norm_out = FrameGroupNorm(config.norm_num_groups, channels[0], config.norm_eps)
        self.conv_out = nn.Conv2d(channels[0], config.out_channels, 3, padding=1)
        self._transformers = _number_transformers(self)

    @classmethod
    def from_config(cls, config: UNetConfig | Mapping[str, Any]) -> Self:
        """Build the network on the meta device, without memory for its weights.

        Args:
            config: the architecture, or a mapping with the names of the published files.

        Raises:
            EngineUnavailable: an unknown name, or a value that is not supported.
        """
        if not isinstance(config, UNetConfig):
            config = to_config(config, UNetConfig, "The UNet configuration")
        with init_empty_weights(include_buffers=True):
            return cls(config).eval().requires_grad_(False)

    def load_checkpoint(
        self,
        path: str | Path,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        strict: bool = True,
    ) -> LoadReport:
        """Fill the network from a published checkpoint; see :func:`load_unet`.

        Raises:
            CheckpointUnusable: the file cannot be read.
            CheckpointMismatch: its tensors are not this network's.
        """
        return load_unet(self, path, device=torch.device(device), dtype=dtype, strict=strict)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return self.conv_in.weight.dtype

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.conv_in.weight.device

    def encode_audio(self, audio: Tensor, num_silent: int = 0) -> AudioContext:
        """Prepare audio features once for all steps of a window.

        Args:
            audio: (frames, 50, cross_attention_dim), frame-major with the batch outside.
            num_silent: frames before these with zeros as audio: the unconditional part of the
                batch. Their result equals that of zeros in ``audio`` without the computation.
        """
        audio = audio.to(self.device, self.dtype)
        keys_values = tuple(part.encode_audio(audio) for part in self._transformers)
        return AudioContext(keys_values, num_silent)

    def forward(
        self,
        sample: Tensor,
        timestep: int | Tensor,
        encoder_hidden_states: Tensor | AudioContext,
        *,
        cached: Tensor | None = None,
    ) -> UNetOutput:
        """Predict the noise in ``sample``.

        Args:
            sample: (B, in_channels, F, H, W): latents, mask, masked-face and reference latents.
            timestep: noise level 0..999, the same for the whole batch.
            encoder_hidden_states: audio (B*F, 50, cross_attention_dim), row b*F + f for frame f of
                batch entry b; or the result of :meth:`encode_audio`.
            cached: ``features`` of an earlier pass: only the last layer runs, on these.

        Raises:
            InternalError: the numbers of frames of sample and audio differ, or the window is longer
                than the position tables.
        """
        num_frames = sample.shape[2]
        audio = self._check_audio(encoder_hidden_states, sample.shape[0] * num_frames)
        inputs = BlockInputs(self._embed(timestep), audio, num_frames)
        hidden = self.conv_in(fold_frames(sample.to(self.dtype)))  # (B*F, C, H, W) from here on
        skips = [hidden]
        features = self._run_all_but_last(skips, inputs) if cached is None else cached
        last = cast(UpBlock, self.up_blocks[-1])
        hidden = last.join(len(last.resnets) - 1, features, skips[0], inputs)
        hidden = F.silu(self.conv_norm_out(hidden, num_frames), inplace=True)
        return UNetOutput(unfold_frames(self.conv_out(hidden), num_frames), features)

    def _run_all_but_last(self, skips: list[Tensor], inputs: BlockInputs) -> Tensor:
        """Run all layers between ``conv_in``, whose output is in ``skips``, and the last one."""
        for down_block in self.down_blocks:
            skips.extend(down_block(skips[-1], inputs))
        hidden: Tensor = self.mid_block(skips[-1], inputs)
        *up_blocks, last = (cast(UpBlock, block) for block in self.up_blocks)
        for up_block in up_blocks:
            hidden = up_block(hidden, skips, inputs)
        for index in range(len(last.resnets) - 1):
            hidden = last.join(index, hidden, skips.pop(), inputs)
        return hidden

    def _embed(self, timestep: int | Tensor) -> Tensor:
        channels = self.config.block_out_channels[0]
        sinusoids = sinusoidal_embedding(timestep, channels, self.device).to(self.dtype)
        # Every resnet starts with this activation, so it is computed once.
        return F.silu(self.time_embedding(sinusoids))

    def _check_audio(self, audio: Tensor | AudioContext, num_pictures: int) -> AudioContext:
        if isinstance(audio, Tensor):
            audio = self.encode_audio(audio)
        given = audio.num_silent + len(audio.keys_values[0][0])
        if given != num_pictures:
            raise InternalError(f"The sample has {num_pictures} frames and the audio {given}.")
        return audio


def _number_transformers(unet: nn.Module) -> tuple[SpatialTransformer, ...]:
    """Set the index of every spatial transformer in :class:`AudioContext`; return them in order."""
    found = tuple(part for part in unet.modules() if isinstance(part, SpatialTransformer))
    for index, transformer in enumerate(found):
        transformer.audio_index = index
    return found

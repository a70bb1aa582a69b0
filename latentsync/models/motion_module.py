"""Attention over the frames of a window, for temporal consistency."""

import math

import torch
from torch import Tensor, nn

from latentsync.errors import InternalError
from latentsync.models.attention import Attention, FeedForward
from latentsync.models.config import MAX_PERIOD, MOTION_NORM_GROUPS, MotionModuleConfig
from latentsync.models.frames import FrameGroupNorm, channels_first, channels_last


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
    angles = positions * torch.exp(-math.log(MAX_PERIOD) * exponents)
    return torch.stack([angles.sin(), angles.cos()], dim=2).reshape(1, max_frames, channels).float()


class TemporalAttention(Attention):
    """Self-attention over frames; the position table is added after the block's LayerNorm."""

    def __init__(self, channels: int, config: MotionModuleConfig) -> None:
        heads = config.num_attention_heads
        super().__init__(channels, heads, channels // heads // config.temporal_attention_dim_div)
        self.pos_encoder = (
            PositionTable(channels, config.temporal_position_encoding_max_len)
            if config.temporal_position_encoding
            else nn.Identity()
        )

    def forward(self, tokens: Tensor) -> Tensor:  # type: ignore[override]
        """Map (B*H*W, F, channels) to the same shape; changes ``tokens`` in place."""
        return super().forward(self.pos_encoder(tokens))


class TemporalBlock(nn.Module):
    """Temporal attentions one after the other, then feed-forward; each added to its input."""

    def __init__(self, channels: int, config: MotionModuleConfig) -> None:
        super().__init__()
        count = len(config.attention_block_types)
        self.attention_blocks = nn.ModuleList(
            TemporalAttention(channels, config) for _ in range(count)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(count))
        self.ff = FeedForward(channels)
        self.ff_norm = nn.LayerNorm(channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """Change ``tokens`` (B*H*W, F, channels) in place."""
        for norm, attention in zip(self.norms, self.attention_blocks, strict=True):
            tokens += attention(norm(tokens))
        tokens += self.ff(self.ff_norm(tokens))
        return tokens


class TemporalTransformer(nn.Module):
    """The transformer over frames; every pixel is a separate sequence."""

    def __init__(self, channels: int, config: MotionModuleConfig) -> None:
        super().__init__()
        self.norm = FrameGroupNorm(MOTION_NORM_GROUPS, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList(
            TemporalBlock(channels, config) for _ in range(config.num_transformer_block)
        )
        self.proj_out = nn.Linear(channels, channels)

    def forward(self, hidden: Tensor, num_frames: int) -> Tensor:
        """Map (B*F, C, H, W) to a new tensor of the same shape."""
        pixels = channels_last(hidden)
        batched = (-1, num_frames, pixels[0, ..., 0].numel(), pixels.shape[3])  # B, F, H*W, C
        # Regrouped here and at the end: the layers between use (B*H*W, F, C).
        tokens = channels_last(self.norm(hidden)).view(batched).transpose(1, 2).flatten(0, 1)
        tokens = self.proj_in(tokens)
        for block in self.transformer_blocks:
            tokens = block(tokens)
        moved = self.proj_out(tokens).view(-1, batched[2], num_frames, batched[3]).transpose(1, 2)
        return channels_first((pixels.reshape(batched) + moved).view(pixels.shape))


class MotionModule(nn.Module):
    """The temporal transformer, with the name in the checkpoints."""

    def __init__(self, channels: int, config: MotionModuleConfig) -> None:
        super().__init__()
        self.temporal_transformer = TemporalTransformer(channels, config)

    def forward(self, hidden: Tensor, num_frames: int) -> Tensor:
        """Map (B*F, C, H, W) to a new tensor of the same shape."""
        moved: Tensor = self.temporal_transformer(hidden, num_frames)
        return moved

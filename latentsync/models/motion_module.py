"""The motion module: attention along time, every position of the picture by itself."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from latentsync.models.attention import (
    TRANSFORMER_NORM_EPS,
    Attention,
    FeedForward,
    to_image,
    to_tokens,
)
from latentsync.models.norms import FoldedGroupNorm

_NUM_GROUPS = 32  # fixed, whatever the other norms have


class PositionTable(nn.Module):
    """Sines and cosines of the frame's number, a buffer that checkpoints hold."""

    pe: Tensor  # 1, max_frames, dim

    def __init__(self, dim: int, max_frames: int) -> None:
        super().__init__()
        position = torch.arange(max_frames, dtype=torch.float64)[:, None]
        rates = torch.exp(torch.arange(0, dim, 2, dtype=torch.float64) * (-math.log(1e4) / dim))
        angles = position * rates
        table = torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)
        self.register_buffer("pe", table[None].float())

    def forward(self, tokens: Tensor) -> Tensor:
        """Add the table to (N, F, dim)."""
        return tokens + self.pe[:, : tokens.shape[1]]


class TemporalSelfAttention(Attention):
    """Self-attention over frames; the position joins after the layer norm."""

    def __init__(self, dim: int, num_heads: int, max_frames: int) -> None:
        super().__init__(dim, num_heads)
        self.pos_encoder = PositionTable(dim, max_frames)

    def forward(self, tokens: Tensor, context: Tensor | None = None) -> Tensor:
        return super().forward(self.pos_encoder(tokens), context)


class TemporalTransformerBlock(nn.Module):
    """Two self-attentions and a feed-forward, each with its norm and added to its input."""

    def __init__(self, dim: int, num_heads: int, max_frames: int) -> None:
        super().__init__()
        self.attention_blocks = nn.ModuleList(
            TemporalSelfAttention(dim, num_heads, max_frames) for _ in range(2)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.ff = FeedForward(dim)
        self.ff_norm = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor) -> Tensor:
        for attention, norm in zip(self.attention_blocks, self.norms, strict=True):
            tokens = tokens + attention(norm(tokens))
        result: Tensor = tokens + self.ff(self.ff_norm(tokens))
        return result


class TemporalTransformer3DModel(nn.Module):
    """Norm and projections of each frame around the block that looks along time."""

    def __init__(self, dim: int, num_heads: int, max_frames: int) -> None:
        super().__init__()
        self.norm = FoldedGroupNorm(_NUM_GROUPS, dim, eps=TRANSFORMER_NORM_EPS)
        self.proj_in = nn.Linear(dim, dim)
        self.transformer_blocks = nn.ModuleList(
            [TemporalTransformerBlock(dim, num_heads, max_frames)]
        )
        self.proj_out = nn.Linear(dim, dim)

    def forward(self, hidden_states: Tensor, num_frames: int) -> Tensor:
        size = hidden_states.shape[-2:]
        tokens = self.proj_in(to_tokens(self.norm(hidden_states)))  # B*F, H*W, C
        # Layers that look at one token do not care about order: regroup once, around all of them.
        along_time = tokens.unflatten(0, (-1, num_frames)).transpose(1, 2).flatten(0, 1)
        for block in self.transformer_blocks:
            along_time = block(along_time)  # B*H*W, F, C
        tokens = along_time.unflatten(0, (-1, tokens.shape[1])).transpose(1, 2).flatten(0, 1)
        return to_image(self.proj_out(tokens), size) + hidden_states


class VanillaTemporalModule(nn.Module):
    """The slot that published names give the transformer above."""

    def __init__(self, dim: int, num_heads: int, max_frames: int) -> None:
        super().__init__()
        self.temporal_transformer = TemporalTransformer3DModel(dim, num_heads, max_frames)

    def forward(self, hidden_states: Tensor, num_frames: int) -> Tensor:
        """Return (B*F, C, H, W); at most ``max_frames`` frames."""
        result: Tensor = self.temporal_transformer(hidden_states, num_frames)
        return result

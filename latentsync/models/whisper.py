"""The encoder of Whisper, giving the states of all its layers instead of the last one alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class WhisperDims:
    """Sizes of the encoder, with the names that checkpoints give them."""

    n_mels: int = 80
    n_audio_ctx: int = 1500
    n_audio_state: int = 384
    n_audio_head: int = 6
    n_audio_layer: int = 4

    @classmethod
    def from_mapping(cls, dims: Mapping[str, int]) -> WhisperDims:
        """Take the encoder's sizes out of a checkpoint's ``dims``."""
        return cls(**{field.name: int(dims[field.name]) for field in fields(cls)})


class WhisperAttention(nn.Module):
    """Self-attention; every projection but the keys' has a bias."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = (
            layer(tokens).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        attended = F.scaled_dot_product_attention(query, key, value)
        joined: Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return joined


class WhisperBlock(nn.Module):
    """Attention and a two-layer perceptron, each with its norm and added to its input."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.attn = WhisperAttention(dim, num_heads)
        self.attn_ln = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.mlp_ln = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attn(self.attn_ln(tokens))
        result: Tensor = tokens + self.mlp(self.mlp_ln(tokens))
        return result


class WhisperEncoder(nn.Module):
    """Log-mel columns to states, 100 columns and 50 states a second.

    ``ln_post`` is part of every checkpoint and is not applied: the states are wanted as they are.
    """

    positional_embedding: Tensor  # n_audio_ctx, n_audio_state

    def __init__(self, dims: WhisperDims) -> None:
        super().__init__()
        dim = dims.n_audio_state
        self.conv1 = nn.Conv1d(dims.n_mels, dim, 3, padding=1)
        self.conv2 = nn.Conv1d(dim, dim, 3, stride=2, padding=1)
        self.register_buffer("positional_embedding", torch.empty(dims.n_audio_ctx, dim))
        self.blocks = nn.ModuleList(
            WhisperBlock(dim, dims.n_audio_head) for _ in range(dims.n_audio_layer)
        )
        self.ln_post = nn.LayerNorm(dim)

    def forward(self, mel: Tensor) -> Tensor:
        """Return the states before the first block and after each one.

        Args:
            mel: (N, n_mels, 2 * n_audio_ctx), normalised log-mel.

        Returns:
            (N, n_audio_ctx, n_audio_layer + 1, n_audio_state).
        """
        states = F.gelu(self.conv1(mel))
        states = F.gelu(self.conv2(states)).transpose(1, 2)  # N, n_audio_ctx, n_audio_state
        states = states + self.positional_embedding
        kept = [states]
        for block in self.blocks:
            states = block(states)
            kept.append(states)
        return torch.stack(kept, dim=2)

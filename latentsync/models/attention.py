"""Attention over tokens, the feed-forward part, and the spatial transformer of a picture."""

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentsync.models.frames import FrameGroupNorm, channels_first, channels_last, to_tokens

MAX_SEQUENCES = 65535  # largest grid of the CUDA kernels behind scaled_dot_product_attention

KeysValues = tuple[Tensor, Tensor]  # each (sequences, heads, length, head width)


@dataclass(frozen=True)
class AudioContext:
    """Keys and values of the audio for the spatial transformers, used in all steps of a window.

    Attributes:
        keys_values: of every spatial transformer, in the order of the network.
        num_silent: leading folded frames with zeros as audio (the unconditional part); keys_values
            are those of the frames after them.
    """

    keys_values: tuple[KeysValues, ...]
    num_silent: int = 0


class Attention(nn.Module):
    """Multi-head attention; queries, keys and values have no bias.

    Args:
        channels: width of the tokens.
        heads: number of heads.
        head_width: width of each.
        context_channels: width of the tokens for keys and values.
    """

    def __init__(
        self, channels: int, heads: int, head_width: int, context_channels: int | None = None
    ) -> None:
        super().__init__()
        inner = heads * head_width
        self.heads = heads
        self.to_q = nn.Linear(channels, inner, bias=False)
        self.to_k = nn.Linear(context_channels or channels, inner, bias=False)
        self.to_v = nn.Linear(context_channels or channels, inner, bias=False)
        self.to_out = nn.Sequential(nn.Linear(inner, channels))

    def project(self, context: Tensor) -> KeysValues:
        """Return keys and values of ``context`` (sequences, length, context_channels)."""
        return self._split(self.to_k(context)), self._split(self.to_v(context))

    def forward(self, tokens: Tensor, keys_values: KeysValues | None = None) -> Tensor:
        """Attend from ``tokens`` (sequences, length, channels) to ``keys_values`` or themselves."""
        keys, values = self.project(tokens) if keys_values is None else keys_values
        attended = attend(self._split(self.to_q(tokens)), keys, values)
        hidden: Tensor = self.to_out(attended.transpose(1, 2).flatten(2))
        return hidden

    def _split(self, tokens: Tensor) -> Tensor:
        sequences, length, inner = tokens.shape
        return tokens.view(sequences, length, self.heads, inner // self.heads).transpose(1, 2)


def attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Return the scaled dot-product attention of (sequences, heads, length, width) tensors."""
    if queries.shape[0] <= MAX_SEQUENCES:
        return F.scaled_dot_product_attention(queries, keys, values)
    half = queries.shape[0] // 2
    return torch.cat(
        [
            attend(queries[:half], keys[:half], values[:half]),
            attend(queries[half:], keys[half:], values[half:]),
        ]
    )


class GatedProjection(nn.Module):
    """A linear layer to twice the width, whose second half gates the first through exact GELU."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels, 2 * inner)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (..., channels) to (..., inner)."""
        value, gate = self.proj(tokens).chunk(2, dim=-1)
        return F.gelu(gate).mul_(value)


class FeedForward(nn.Module):
    """Gated projection to four times the width and back."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # The second entry was dropout in training; names in the checkpoints count it.
        self.net = nn.Sequential(
            GatedProjection(channels, 4 * channels),
            nn.Identity(),
            nn.Linear(4 * channels, channels),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (..., channels) to the same shape."""
        hidden: Tensor = self.net(tokens)
        return hidden


class TokenConv2d(nn.Conv2d):
    """A 1x1 convolution, stored as one and run as a linear layer over tokens."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (N, H*W, in_channels) to (N, H*W, out_channels)."""
        return F.linear(tokens, self.weight.flatten(1), self.bias)


class TransformerBlock(nn.Module):
    """Self-attention within a frame, attention to the frame's audio, feed-forward."""

    def __init__(self, channels: int, heads: int, audio_channels: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = Attention(channels, heads, channels // heads)
        self.norm2 = nn.LayerNorm(channels)
        self.attn2 = Attention(channels, heads, channels // heads, audio_channels)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)

    def forward(self, tokens: Tensor, keys_values: KeysValues, num_silent: int) -> Tensor:
        """Change ``tokens`` (B*F, H*W, channels) in place.

        Args:
            tokens: the pictures.
            keys_values: of the audio of the frames after the first ``num_silent``.
            num_silent: frames whose audio is zeros.
        """
        tokens += self.attn1(self.norm1(tokens))
        self._listen(tokens[num_silent:], tokens[:num_silent], keys_values)
        tokens += self.ff(self.norm3(tokens))
        return tokens

    def _listen(self, hearing: Tensor, silent: Tensor, keys_values: KeysValues) -> None:
        # Audio of zeros has values of zero, since there is no bias: only the output's bias is left.
        silent += cast(Tensor, self.attn2.to_out[0].bias)
        if len(hearing):
            hearing += self.attn2(self.norm2(hearing), keys_values)


class SpatialTransformer(nn.Module):
    """A transformer over the pixels of each frame, added to its input.

    Args:
        channels: channels of the pictures.
        heads: attention heads.
        audio_channels: width of the audio features.
        groups: groups of the norm, which is taken per frame.
    """

    def __init__(self, channels: int, heads: int, audio_channels: int, groups: int) -> None:
        super().__init__()
        self.audio_index = 0  # index in AudioContext.keys_values, set by the network
        self.norm = FrameGroupNorm(groups, channels, eps=1e-6)
        self.proj_in = TokenConv2d(channels, channels)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(channels, heads, audio_channels)])
        self.proj_out = TokenConv2d(channels, channels)

    def encode_audio(self, audio: Tensor) -> KeysValues:
        """Return keys and values of audio features (frames, 50, audio_channels)."""
        return cast(TransformerBlock, self.transformer_blocks[0]).attn2.project(audio)

    def forward(self, hidden: Tensor, audio: AudioContext) -> Tensor:
        """Map (B*F, C, H, W) to a new tensor of the same shape."""
        tokens = self.proj_in(to_tokens(self.norm(hidden)))  # (B*F, H*W, C)
        keys_values = audio.keys_values[self.audio_index]
        tokens = self.transformer_blocks[0](tokens, keys_values, audio.num_silent)
        pixels = self.proj_out(tokens).view(channels_last(hidden).shape)
        return channels_first(pixels).add_(hidden)

"""Attention over tokens (N, length, channels), and the transformer that works on one frame."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from latentsync.models.norms import FoldedGroupNorm

TRANSFORMER_NORM_EPS = 1e-6


class Attention(nn.Module):
    """Multi-head scaled dot-product attention; queries, keys and values have no bias.

    Args:
        query_dim: width of the tokens.
        num_heads: number of heads; the width of a head is ``query_dim / num_heads``.
        context_dim: width of what is attended to, by default the tokens themselves.
    """

    def __init__(self, query_dim: int, num_heads: int, context_dim: int | None = None) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_q = nn.Linear(query_dim, query_dim, bias=False)
        self.to_k = nn.Linear(context_dim or query_dim, query_dim, bias=False)
        self.to_v = nn.Linear(context_dim or query_dim, query_dim, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(query_dim, query_dim)])

    def forward(self, tokens: Tensor, context: Tensor | None = None) -> Tensor:
        """Return (N, length, query_dim); ``context`` is (N, other length, context_dim)."""
        context = tokens if context is None else context
        query, key, value = (
            self._split_heads(projected)
            for projected in (self.to_q(tokens), self.to_k(context), self.to_v(context))
        )
        attended = F.scaled_dot_product_attention(query, key, value)  # N, heads, length, width
        joined: Tensor = self.to_out[0](attended.transpose(1, 2).flatten(2))
        return joined

    def _split_heads(self, projected: Tensor) -> Tensor:
        heads: Tensor = projected.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        return heads


class GEGLU(nn.Module):
    """Linear layer whose second half of outputs gates the first through an exact GELU."""

    def __init__(self, dim: int, inner_dim: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, 2 * inner_dim)

    def forward(self, tokens: Tensor) -> Tensor:
        value, gate = self.proj(tokens).chunk(2, dim=-1)
        gated: Tensor = value * F.gelu(gate)
        return gated


class FeedForward(nn.Module):
    """GEGLU and a linear layer. The empty slot stands where the published names count a dropout."""

    def __init__(self, dim: int, mult: int = 4) -> None:
        super().__init__()
        self.net = nn.Sequential(GEGLU(dim, mult * dim), nn.Identity(), nn.Linear(mult * dim, dim))

    def forward(self, tokens: Tensor) -> Tensor:
        result: Tensor = self.net(tokens)
        return result


class BasicTransformerBlock(nn.Module):
    """Self-attention, attention to the audio, feed-forward; each added to its input."""

    def __init__(self, dim: int, num_heads: int, audio_dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn1 = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim)
        self.attn2 = Attention(dim, num_heads, audio_dim)
        self.norm3 = nn.LayerNorm(dim)
        self.ff = FeedForward(dim)

    def forward(self, tokens: Tensor, audio: Tensor) -> Tensor:
        tokens = tokens + self.attn1(self.norm1(tokens))
        tokens = tokens + self.attn2(self.norm2(tokens), audio)
        result: Tensor = tokens + self.ff(self.norm3(tokens))
        return result


class Transformer3DModel(nn.Module):
    """The spatial transformer: each frame alone, its pixels as tokens, its own audio."""

    def __init__(self, dim: int, num_heads: int, audio_dim: int, num_groups: int) -> None:
        super().__init__()
        self.norm = FoldedGroupNorm(num_groups, dim, eps=TRANSFORMER_NORM_EPS)
        self.proj_in = nn.Conv2d(dim, dim, 1)
        self.transformer_blocks = nn.ModuleList([BasicTransformerBlock(dim, num_heads, audio_dim)])
        self.proj_out = nn.Conv2d(dim, dim, 1)

    def forward(self, hidden_states: Tensor, audio: Tensor) -> Tensor:
        """Return (B*F, C, H, W); ``audio`` is (B*F, 50, audio_dim)."""
        size = hidden_states.shape[-2:]
        tokens = to_tokens(self.proj_in(self.norm(hidden_states)))  # B*F, H*W, C
        for block in self.transformer_blocks:
            tokens = block(tokens, audio)
        result: Tensor = self.proj_out(to_image(tokens, size)) + hidden_states
        return result


def to_tokens(image: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, H*W, C); no copy when the channels lie last in memory."""
    return image.flatten(2).transpose(1, 2)


def to_image(tokens: Tensor, size: tuple[int, ...]) -> Tensor:
    """(N, H*W, C) -> (N, C, H, W), channels last in memory; no copy."""
    image: Tensor = tokens.transpose(1, 2).unflatten(2, size)
    return image

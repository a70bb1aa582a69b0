"""The encoder of OpenAI's Whisper, which returns all hidden states of log-mel windows."""

from dataclasses import dataclass, fields
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import init_empty_weights
from torch import Tensor, nn

from latentsync.errors import CheckpointUnusable, InternalError
from latentsync.models.checkpoint import fill, named_tensors, place, read_checkpoint, require_match

# Tensors in the file that are not used: the decoder, and a norm that LatentSync does not apply.
_NOT_USED = ("decoder.", "encoder.ln_post.")


@dataclass(frozen=True)
class WhisperDims:
    """Sizes of the encoder, named as in the file."""

    n_mels: int = 80
    n_audio_ctx: int = 1500
    n_audio_state: int = 384
    n_audio_head: int = 6
    n_audio_layer: int = 4


class WhisperAttention(nn.Module):
    """Self-attention; keys have no bias."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map (B, length, width) to the same shape."""
        parts = (self.query(hidden), self.key(hidden), self.value(hidden))
        split = (*hidden.shape[:2], self.heads, -1)
        query, key, value = (part.view(split).transpose(1, 2) for part in parts)
        attended = F.scaled_dot_product_attention(query, key, value)
        mixed: Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return mixed


class WhisperBlock(nn.Module):
    """Attention and MLP, each with a norm before it and a residual connection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = WhisperAttention(width, heads)
        self.attn_ln = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.mlp_ln = nn.LayerNorm(width)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map (B, length, width) to the same shape."""
        hidden = hidden + self.attn(self.attn_ln(hidden))
        result: Tensor = hidden + self.mlp(self.mlp_ln(hidden))
        return result


class WhisperEncoder(nn.Module):
    """Encodes windows of log-mel columns, 100 per second, to states, 50 per second.

    Args:
        dims: sizes of the network.
    """

    positional_embedding: Tensor

    def __init__(self, dims: WhisperDims) -> None:
        super().__init__()
        self.dims = dims
        width = dims.n_audio_state
        self.conv1 = nn.Conv1d(dims.n_mels, width, 3, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.register_buffer("positional_embedding", torch.empty(dims.n_audio_ctx, width))
        self.blocks = nn.ModuleList(
            WhisperBlock(width, dims.n_audio_head) for _ in range(dims.n_audio_layer)
        )

    def forward(self, mel: Tensor) -> Tensor:
        """Return the states before the first block and after each: (B, n_audio_ctx, 1 + layers, W).

        Args:
            mel: normalised log-mel (B, n_mels, 2 * n_audio_ctx), moved to the network's device and
                dtype.

        Raises:
            InternalError: ``mel`` has another shape.
        """
        wanted = (self.dims.n_mels, 2 * self.dims.n_audio_ctx)
        if mel.shape[1:] != wanted:
            raise InternalError(
                f"A window of log-mel has the shape {wanted}, not {tuple(mel.shape[1:])}."
            )
        hidden = F.gelu(self.conv1(mel.to(self.conv1.weight)))  # (B, W, 2 * n_audio_ctx)
        hidden = F.gelu(self.conv2(hidden)).transpose(1, 2)  # (B, n_audio_ctx, W)
        states = [hidden + self.positional_embedding]
        for block in self.blocks:
            states.append(block(states[-1]))
        return torch.stack(states, dim=2)


def build_whisper(dims: WhisperDims) -> WhisperEncoder:
    """Build the encoder on the meta device, without memory for its weights."""
    with init_empty_weights(include_buffers=True):
        return WhisperEncoder(dims).eval().requires_grad_(False)


def load_whisper(
    path: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> WhisperEncoder:
    """Build the encoder and load a file in OpenAI's layout (``dims``, ``model_state_dict``).

    Raises:
        CheckpointUnusable: the file cannot be read or has no dims.
        CheckpointMismatch: its tensors do not have the sizes it states.
    """
    path = Path(path)
    loaded = read_checkpoint(path)
    encoder = build_whisper(_read_dims(loaded.get("dims"), path.name))
    state = {
        name.removeprefix("encoder."): value
        for name, value in named_tensors(loaded, path.name, "model_state_dict").items()
        if not name.startswith(_NOT_USED)
    }
    require_match(state, encoder, path.name)
    fill(encoder, place(state, torch.device(device), dtype))
    return encoder


def _read_dims(dims: object, file_name: str) -> WhisperDims:
    names = [field.name for field in fields(WhisperDims)]
    if not isinstance(dims, dict) or any(not isinstance(dims.get(name), int) for name in names):
        raise CheckpointUnusable(
            f"{file_name} is not a Whisper checkpoint in OpenAI's layout: it has no usable dims "
            f"({', '.join(names)}). Fetch it with `latentsync weights pull`."
        )
    return WhisperDims(**{name: dims[name] for name in names})

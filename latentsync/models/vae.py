"""The autoencoder between face pictures and latents, diffusers' AutoencoderKL."""

import re
from dataclasses import asdict
from pathlib import Path

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL
from torch import Tensor

from latentsync.models.checkpoint import StateDict, fill, place, read_state, require_match
from latentsync.models.config import VAEConfig

# The published file has diffusers' former names of the attention in the mid block.
_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD_NAME = re.compile(rf"(mid_block\.attentions\.\d+\.)({'|'.join(_OLD_NAMES)})\.(weight|bias)$")
_ATTENTION_WEIGHT = re.compile(r"mid_block\.attentions\.\d+\.to_(q|k|v|out\.0)\.weight$")
_LOGVAR_RANGE = (-30.0, 20.0)


def build_vae(config: VAEConfig) -> AutoencoderKL:
    """Build the autoencoder on the meta device, without memory for its weights."""
    with init_empty_weights(include_buffers=True):
        vae = AutoencoderKL(**asdict(config))
    return vae.eval().requires_grad_(False)


def load_vae(
    path: str | Path,
    config: VAEConfig,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> AutoencoderKL:
    """Build the autoencoder and load a file with former or current names.

    Raises:
        CheckpointUnusable: the file cannot be read.
        CheckpointMismatch: its tensors are not this network's.
    """
    path = Path(path)
    vae = build_vae(config)
    state = rename_old(read_state(path))
    require_match(state, vae, path.name)
    fill(vae, place(state, torch.device(device), dtype))
    return vae


def rename_old(state: StateDict) -> StateDict:
    """Return ``state`` with current names; 1x1 kernels of the attention become matrices."""
    renamed = {
        _OLD_NAME.sub(lambda match: f"{match[1]}{_OLD_NAMES[match[2]]}.{match[3]}", name): value
        for name, value in state.items()
    }
    return {
        name: value[:, :, 0, 0]
        if _ATTENTION_WEIGHT.search(name) and value.shape[2:] == (1, 1)
        else value
        for name, value in renamed.items()
    }


def encode_latents(vae: AutoencoderKL, images: Tensor, noise: Tensor) -> Tensor:
    """Return a sample of the posterior of ``images``, scaled: (N, 4, H/8, W/8).

    Args:
        vae: the autoencoder.
        images: (N, 3, H, W) in -1..1.
        noise: standard normal, of the result's shape.
    """
    return sample_latents(vae, encode_moments(vae, images), noise)


def encode_moments(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Return the posterior of ``images`` (N, 3, H, W): mean and log-variance, (N, 8, H/8, W/8)."""
    moments: Tensor = vae.quant_conv(vae.encoder(_channels_last(vae, images)))
    return moments


def sample_latents(vae: AutoencoderKL, moments: Tensor, noise: Tensor) -> Tensor:
    """Return scaled latents sampled from a posterior; see :func:`encode_latents`."""
    mean, logvar = moments.chunk(2, dim=1)
    deviation = torch.exp(0.5 * logvar.clamp(*_LOGVAR_RANGE))
    latents: Tensor = (mean + deviation * noise.to(mean)) * vae.config.scaling_factor
    return latents


def decode_latents(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Return pictures (N, 3, 8h, 8w), about -1..1, of scaled latents (N, 4, h, w)."""
    unscaled = _channels_last(vae, latents / vae.config.scaling_factor)
    pictures: Tensor = vae.decoder(vae.post_quant_conv(unscaled))
    return pictures


def _channels_last(vae: AutoencoderKL, pictures: Tensor) -> Tensor:
    weight = vae.quant_conv.weight
    return pictures.to(weight.device, weight.dtype, memory_format=torch.channels_last)

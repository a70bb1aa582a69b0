"""The autoencoder between pictures and latents: diffusers' class, our loading and scaling."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL
from torch import Tensor

from latentsync.models.checkpoint import assign_state

SCALING_FACTOR = 0.18215
_LOGVAR_MIN, _LOGVAR_MAX = -30.0, 20.0

# Names of the mid-block attention before diffusers renamed them.
_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD_NAME = re.compile(r"(.*\.mid_block\.attentions\.0)\.(query|key|value|proj_attn)\.(\w+)")

# stabilityai/sd-vae-ft-mse
SD_VAE_CONFIG: Mapping[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "act_fn": "silu",
    "latent_channels": 4,
    "norm_num_groups": 32,
    "sample_size": 256,
}


def build_vae(config: Mapping[str, Any] = SD_VAE_CONFIG) -> AutoencoderKL:
    """Build the network without memory for its weights; load a state into it before use."""
    with init_empty_weights():
        return AutoencoderKL(**config)


def load_vae_state(vae: AutoencoderKL, state: Mapping[str, Tensor]) -> AutoencoderKL:
    """Put the weights into a network of :func:`build_vae`; names old and new are understood.

    Raises:
        CheckpointMismatch: names or shapes differ.
    """
    assign_state(vae, rename_old_keys(state), "the VAE")
    return vae.eval()


def rename_old_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state with today's names; weights kept as 1x1 convolutions become matrices."""
    renamed = {}
    for name, tensor in state.items():
        match = _OLD_NAME.fullmatch(name)
        if match:
            name = f"{match[1]}.{_OLD_NAMES[match[2]]}.{match[3]}"
        is_matrix = ".mid_block.attentions.0.to_" in name and name.endswith(".weight")
        renamed[name] = tensor.flatten(1) if is_matrix and tensor.ndim == 4 else tensor
    return renamed


def encode_latents(vae: AutoencoderKL, images: Tensor, noise: Tensor) -> Tensor:
    """Return latents drawn from the posterior, scaled as the UNet expects.

    Args:
        vae: the network.
        images: (N, 3, H, W) in -1..1.
        noise: (N, 4, H/8, W/8), standard normal, which makes the draw reproducible.
    """
    mean, logvar = vae.quant_conv(vae.encoder(images)).chunk(2, dim=1)
    deviation = torch.exp(0.5 * logvar.clamp(_LOGVAR_MIN, _LOGVAR_MAX))
    latents: Tensor = (mean + deviation * noise) * SCALING_FACTOR
    return latents


def decode_latents(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Return pictures (N, 3, 8*h, 8*w), about -1..1, for scaled latents (N, 4, h, w)."""
    images: Tensor = vae.decoder(vae.post_quant_conv(latents / SCALING_FACTOR))
    return images

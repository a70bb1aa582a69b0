"""The three networks of one LatentSync version, loaded and ready."""

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from latentsync.models.config import LatentSyncConfig
from latentsync.models.unet import UNet3DConditionModel
from latentsync.models.vae import load_vae
from latentsync.models.whisper import WhisperEncoder, load_whisper


@dataclass(frozen=True, eq=False)
class LipsyncNetworks:
    """One version's networks on one device.

    Attributes:
        config: the version's values.
        unet: predicts noise.
        vae: pixels to latents and back, in the UNet's type.
        audio_encoder: Whisper's encoder, always in float32: it is small and runs once per video.
    """

    config: LatentSyncConfig
    unet: UNet3DConditionModel
    vae: AutoencoderKL
    audio_encoder: WhisperEncoder


def load_networks(
    config: LatentSyncConfig,
    *,
    unet_path: Path,
    vae_path: Path,
    whisper_path: Path,
    device: torch.device,
    dtype: torch.dtype,
) -> LipsyncNetworks:
    """Build the networks and load their weights from published files.

    Raises:
        CheckpointUnusable: a file cannot be read.
        CheckpointMismatch: a file belongs to another network.
    """
    torch.backends.cudnn.allow_tf32 = False  # TF32 has a mantissa of 10 bits only
    unet = UNet3DConditionModel.from_config(config.unet)
    unet.load_checkpoint(unet_path, device=device, dtype=dtype)
    return LipsyncNetworks(
        config=config,
        unet=unet,
        vae=load_vae(vae_path, config.vae, device=device, dtype=dtype),
        audio_encoder=load_whisper(whisper_path, device=device),
    )

"""LatentSync at a tiny size, with stand-in weights, through the code that loads published files."""

from __future__ import annotations

from pathlib import Path

import torch

from latentsync.config import to_config
from latentsync.models.config import LatentSyncConfig, UNetConfig
from latentsync.pipelines.lipsync.face_generator import LipsyncNetworks, load_networks
from tests.models.stand_ins import (
    golden_state,
    save_unet,
    save_whisper,
    tiny_unet_config,
    tiny_vae_config,
)

RESOLUTION = 64


def tiny_config(resolution: int = RESOLUTION, num_frames: int = 16) -> LatentSyncConfig:
    return LatentSyncConfig(
        model_version="tiny",
        resolution=resolution,
        num_frames=num_frames,
        unet=to_config(tiny_unet_config(), UNetConfig, "tiny"),
        vae=tiny_vae_config(),
    )


def tiny_networks(
    folder: Path, config: LatentSyncConfig | None = None, dtype: torch.dtype = torch.float32
) -> LipsyncNetworks:
    """Write the three files into ``folder`` and load them."""
    torch.save(golden_state("vae"), folder / "vae.pt")
    return load_networks(
        config or tiny_config(),
        unet_path=save_unet(folder / "latentsync_unet.pt"),
        vae_path=folder / "vae.pt",
        whisper_path=save_whisper(folder / "tiny.pt"),
        device=torch.device("cpu"),
        dtype=dtype,
    )

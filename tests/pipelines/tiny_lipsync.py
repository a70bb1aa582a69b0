"""The LatentSync engine at a tiny size, for tests and benchmarks: real code, stand-in weights.

Its files have the published layouts and go through the loaders of production. What the networks
paint means nothing; everything around them is what it is at full size.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latentsync.config import to_config
from latentsync.models.config import LatentSyncConfig, UNetConfig
from latentsync.models.unet import UNet3DConditionModel
from latentsync.models.vae import build_vae
from latentsync.pipelines.lipsync.face_finder import MeshFinder, SpeakerFinder
from latentsync.pipelines.lipsync.face_generator import load_networks
from latentsync.pipelines.lipsync_pipeline import LipsyncPipeline
from tests.models.stand_ins import save_unet, save_whisper, tiny_unet_config, tiny_vae_config
from tests.weights_rule import make_weights

ENGINE = "tiny-lipsync"
RESOLUTION_STEP = 64  # pixels: eight per latent, and the UNet halves those three times


def build_tiny_lipsync(
    folder: Path,
    *,
    resolution: int = 64,
    whisper_path: Path | None = None,
    finder: SpeakerFinder | None = None,
    batch_windows: int = 1,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> LipsyncPipeline:
    """Write files of weights into ``folder`` and build the engine from them.

    Args:
        folder: an existing folder.
        resolution: side of the networks' face in pixels, a multiple of 64.
        whisper_path: a Whisper checkpoint in OpenAI's layout; by default a tiny stand-in.
        finder: by default the embedded mesh.
        batch_windows: windows that go through the network at once.
        device: where the networks run.
        dtype: of the UNet and the autoencoder.
    """
    whisper_path = whisper_path or save_whisper(folder / "whisper.pt")
    config = tiny_config(resolution, audio_width(whisper_path))
    networks = load_networks(
        config,
        unet_path=save_unet(folder / "latentsync_unet.pt", _unet_state(config.unet)),
        vae_path=_save_vae(folder / "vae.bin"),
        whisper_path=whisper_path,
        device=torch.device(device),
        dtype=dtype,
    )
    return LipsyncPipeline(networks, finder or MeshFinder(), batch_windows=batch_windows)


def tiny_config(resolution: int, cross_attention_dim: int) -> LatentSyncConfig:
    """Return the values of a tiny version for faces of ``resolution`` pixels."""
    if resolution < RESOLUTION_STEP or resolution % RESOLUTION_STEP:
        raise ValueError(f"resolution is {resolution}; allowed: multiples of {RESOLUTION_STEP}")
    unet = to_config(tiny_unet_config(), UNetConfig, "tiny UNet")
    unet = replace(unet, cross_attention_dim=cross_attention_dim)
    return LatentSyncConfig(ENGINE, resolution, unet=unet, vae=tiny_vae_config())


def audio_width(whisper_path: Path) -> int:
    """Return the width of the features that a Whisper checkpoint's encoder makes."""
    dims: dict[str, Any] = torch.load(whisper_path, weights_only=True, mmap=True)["dims"]
    return int(dims["n_audio_state"])


def _unet_state(config: UNetConfig) -> dict[str, Tensor]:
    return _stand_in(UNet3DConditionModel.from_config(config))


def _save_vae(path: Path) -> Path:
    torch.save(_stand_in(build_vae(tiny_vae_config())), path)
    return path


def _stand_in(network: nn.Module) -> dict[str, Tensor]:
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    return {name: torch.from_numpy(value) for name, value in make_weights(shapes).items()}

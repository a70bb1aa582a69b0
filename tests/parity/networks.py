"""The networks of a reference folder: its configurations, filled by the rule of stand-in weights.

The reduced ones go through files in the published layouts and the package's own loaders. Weights
are made from the names and shapes of the network that the package builds; that these are the
published ones is checked against the manifests as well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from latentsync.config import read_config, to_config
from latentsync.models.checkpoint import fill
from latentsync.models.config import LatentSyncConfig, VAEConfig
from latentsync.models.unet import UNet3DConditionModel
from latentsync.models.vae import build_vae, load_vae
from latentsync.models.whisper import WhisperDims, WhisperEncoder, build_whisper, load_whisper
from latentsync.pipelines.lipsync.face_generator import LipsyncNetworks
from tests.weights_rule import make_array

Shapes = dict[str, tuple[int, ...]]


class Networks:
    """Builds and fills networks, each once.

    Args:
        golden: the folder with ``meta.json`` and the ``tiny_*`` descriptions.
        scratch: an empty folder for files of weights.
    """

    def __init__(self, golden: Path, scratch: Path) -> None:
        self._golden, self._scratch = golden, scratch
        self.unet = cache(self._load_unet)
        self.vae = cache(self._load_vae)
        self.whisper = cache(self._load_whisper)

    @cached_property
    def salt(self) -> str:
        """What distinguishes sets of weights."""
        salt = read_json(self._golden / "meta.json").get("salt")
        if not isinstance(salt, str):
            raise ValueError(f"meta.json has the salt {salt!r}, not a text")
        return salt

    def build_unet(self, full: bool = False) -> UNet3DConditionModel:
        """Build the UNet, without memory."""
        if full:
            return UNet3DConditionModel.from_config(published_config("latentsync-1.6").unet)
        return UNet3DConditionModel.from_config(read_json(self._golden / "tiny_unet_config.json"))

    def build_vae(self) -> AutoencoderKL:
        """Build the reduced autoencoder, without memory."""
        return build_vae(self.vae_config)

    def build_whisper(self) -> WhisperEncoder:
        """Build the reduced encoder, without memory."""
        dims = self._whisper_dims
        return build_whisper(WhisperDims(**{k: dims[k] for k in vars(WhisperDims())}))

    @cached_property
    def vae_config(self) -> VAEConfig:
        """The reduced autoencoder's sizes."""
        return to_config(read_json(self._golden / "tiny_vae_config.json"), VAEConfig, "tiny VAE")

    @cached_property
    def _whisper_dims(self) -> dict[str, Any]:
        return read_json(self._golden / "tiny_whisper_dims.json")

    def save_unet(self) -> Path:
        """Write the reduced UNet's checkpoint as it is published."""
        path = self._scratch / "latentsync_unet.pt"
        if not path.exists():
            torch.save({"state_dict": self._state(self.build_unet()), "global_step": 1}, path)
        return path

    def save_vae(self) -> Path:
        """Write the reduced autoencoder's weights."""
        path = self._scratch / "vae.bin"
        if not path.exists():
            torch.save(self._state(self.build_vae()), path)
        return path

    def save_whisper(self, full: bool = False) -> Path:
        """Write the encoder in OpenAI's layout."""
        path = self._scratch / f"whisper_{'full' if full else 'tiny'}.pt"
        if not path.exists():
            dims = vars(WhisperDims()) if full else self._whisper_dims
            encoder = build_whisper(WhisperDims()) if full else self.build_whisper()
            state = self._state(encoder, prefix="encoder.")
            torch.save({"dims": dims, "model_state_dict": state}, path)
        return path

    def together(self, resolution: int, dtype: torch.dtype) -> LipsyncNetworks:
        """The three reduced networks as one version for faces of ``resolution`` pixels."""
        unet = self.unet(dtype)
        config = LatentSyncConfig("tiny", resolution, unet=unet.config, vae=self.vae_config)
        return LipsyncNetworks(config, unet, self.vae(dtype), self.whisper(False))

    def full_unet(self) -> UNet3DConditionModel:
        """The UNet at full size, 5 GB; not kept, and not by way of a file, to spare the disk."""
        unet = self.build_unet(full=True)
        fill(unet, self._state(unet))
        return unet

    def _load_unet(self, dtype: torch.dtype) -> UNet3DConditionModel:
        unet = self.build_unet()
        unet.load_checkpoint(self.save_unet(), dtype=dtype)
        return unet

    def _load_vae(self, dtype: torch.dtype) -> AutoencoderKL:
        return load_vae(self.save_vae(), self.vae_config, dtype=dtype)

    def _load_whisper(self, full: bool) -> WhisperEncoder:
        return load_whisper(self.save_whisper(full))

    def _state(self, network: nn.Module, prefix: str = "") -> dict[str, Tensor]:
        names = {f"{prefix}{name}": shape for name, shape in shapes(network).items()}
        return {
            name: torch.from_numpy(make_array(name, shape, self.salt))
            for name, shape in names.items()
        }


def shapes(network: nn.Module) -> Shapes:
    """Return the names and shapes of a network's tensors."""
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


def published_config(version: str) -> LatentSyncConfig:
    """Return the configuration that the package carries for a version."""
    return read_config(version, LatentSyncConfig)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in ``path``.

    Raises:
        ValueError: it is no JSON or no object.
    """
    value = json.loads(path.read_text("utf-8"))
    if not isinstance(value, Mapping):
        raise ValueError(f"{path.name} holds no object")
    return dict(value)

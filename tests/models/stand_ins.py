"""Networks at tiny sizes with stand-in weights, and files that hold such weights.

Everything goes through the code that loads the published files. Of the recorded numbers in
tests/golden, unet_tiny.npz lacks one of three timesteps and whisper_tiny_dims.npz the two longer
clips, ddim_tiny.npz the guided steps after the seventh; what is there is as recorded.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latentsync.config import to_config
from latentsync.models.config import VAEConfig
from latentsync.models.unet import UNet3DConditionModel
from tests.weights_rule import make_weights

TESTS = Path(__file__).parents[1]
GOLDEN = TESTS / "golden"

StateDict = dict[str, Tensor]


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def manifest(name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a published file."""
    listed = read_json(TESTS / "manifests" / f"{name}.json")
    return {key: tuple(shape) for key, shape in listed.items()}


@cache
def golden_state(name: str) -> StateDict:
    """Stand-in weights of the tiny ``unet``, ``vae`` or ``whisper``; do not change them."""
    salt = read_json(GOLDEN / "meta.json")["salt"]
    weights = make_weights(read_json(GOLDEN / f"tiny_{name}_manifest.json"), salt)
    return {key: torch.from_numpy(value) for key, value in weights.items()}


def tiny_unet_config() -> dict[str, Any]:
    return read_json(GOLDEN / "tiny_unet_config.json")


def tiny_vae_config() -> VAEConfig:
    return to_config(read_json(GOLDEN / "tiny_vae_config.json"), VAEConfig, "tiny")


def save_unet(path: Path, state: StateDict | None = None) -> Path:
    """Write a UNet checkpoint in the published layout."""
    state = golden_state("unet") if state is None else state
    torch.save({"state_dict": state, "global_step": 1}, path)
    return path


def save_whisper(path: Path) -> Path:
    """Write the tiny Whisper in OpenAI's layout."""
    dims = read_json(GOLDEN / "tiny_whisper_dims.json")
    torch.save({"dims": dims, "model_state_dict": golden_state("whisper")}, path)
    return path


def load_tiny_unet(folder: Path, **options: Any) -> UNet3DConditionModel:
    unet = UNet3DConditionModel.from_config(tiny_unet_config())
    unet.load_checkpoint(save_unet(folder / "latentsync_unet.pt"), **options)
    return unet


def worst(got: Tensor, wanted: object) -> float:
    """Return the largest absolute difference."""
    wanted = torch.as_tensor(wanted, dtype=torch.float64)
    assert got.shape == wanted.shape
    return float((got.double() - wanted).abs().max())

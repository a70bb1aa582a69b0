"""Numbers of the reference implementation, and networks with the weights they were made with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from latentsync.models.unet import UNet3DConditionModel
from tests.weights_rule import make_state

FOLDER = Path(__file__).resolve().parents[1] / "golden"


def read_golden(name: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / f"{name}.npz") as arrays:
        return dict(arrays)


def read_json(name: str) -> dict:
    return json.loads((FOLDER / f"{name}.json").read_text())


def shapes_of(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def fingerprint(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """SHA-256 over sorted lines of name and shape: equal for equal manifests."""
    lines = [f"{name} {'x'.join(map(str, shape))}" for name, shape in sorted(shapes.items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def stand_in_state(network: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    shapes = {prefix + name: shape for name, shape in shapes_of(network).items()}
    return {
        name.removeprefix(prefix): torch.from_numpy(values)
        for name, values in make_state(shapes).items()
    }


@cache
def tiny_unet() -> UNet3DConditionModel:
    unet = UNet3DConditionModel.from_config(read_json("tiny_unet_config")).eval()
    unet.load_state_dict(stand_in_state(unet))
    return unet


def worst(got: Tensor, wanted: np.ndarray) -> float:
    assert tuple(got.shape) == wanted.shape
    return float(np.abs(got.detach().numpy() - wanted).max())

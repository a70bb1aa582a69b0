"""Reads published checkpoints safely and says exactly what does not fit.

Checkpoints come from the network, so nothing in them is ever executed: PyTorch files go through the
weights-only unpickler, safetensors files hold no code at all.
"""

from __future__ import annotations

import os
import pickle
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from latentsync.errors import CheckpointMismatch, CheckpointUnreadable
from latentsync.models.config import UNetConfig
from latentsync.models.unet import UNet3DConditionModel, channels_last
from latentsync.models.whisper import WhisperDims, WhisperEncoder

_NAMES_SHOWN = 5
_HEAD_BYTES = 512


def load_unet(path: Path, config: UNetConfig) -> UNet3DConditionModel:
    """Build the UNet and load a published checkpoint into it.

    Raises:
        CheckpointUnreadable: the file is missing, cut off or not a checkpoint.
        CheckpointMismatch: it is one of another network.
    """
    state = read_state(path)
    if config.use_motion_module and not any("motion_modules" in name for name in state):
        raise CheckpointMismatch(
            f"{path.name} has no motion modules: it is a version 1.0 checkpoint. Take one of 1.5 "
            "or 1.6, or a configuration with use_motion_module: false."
        )
    with init_empty_weights(include_buffers=True):
        unet = UNet3DConditionModel(config)
    assign_state(unet, state, path.name)
    return channels_last(unet).eval()


def load_whisper_encoder(path: Path) -> WhisperEncoder:
    """Load the encoder out of a checkpoint of OpenAI's layout (``dims``, ``model_state_dict``).

    Raises:
        CheckpointUnreadable, CheckpointMismatch
    """
    checkpoint = _read_torch_file(path)
    if not {"dims", "model_state_dict"} <= set(checkpoint):
        raise CheckpointMismatch(
            f"{path.name} is no Whisper checkpoint: it has no dims and model_state_dict."
        )
    prefix = "encoder."
    state = {
        name.removeprefix(prefix): tensor.float()
        for name, tensor in checkpoint["model_state_dict"].items()
        if name.startswith(prefix)
    }
    with init_empty_weights(include_buffers=True):
        encoder = WhisperEncoder(WhisperDims.from_mapping(checkpoint["dims"]))
    assign_state(encoder, state, path.name)
    return encoder.eval()


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the named tensors of a checkpoint: safetensors, or a PyTorch file.

    In a PyTorch file they may lie under ``state_dict``, and names may begin with ``module.``.

    Raises:
        CheckpointUnreadable: the file is missing, cut off or not a checkpoint.
    """
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    checkpoint = _read_torch_file(path)
    state = checkpoint.get("state_dict", checkpoint)
    return {
        name.removeprefix("module."): tensor
        for name, tensor in state.items()
        if isinstance(tensor, Tensor)
    }


def assign_state(network: nn.Module, state: Mapping[str, Tensor], file_name: str) -> None:
    """Give a network (built without memory) these weights, without copying them.

    Raises:
        CheckpointMismatch: names are missing or unexpected, or shapes differ; all are counted.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in state.items()}
    problems = [
        _listed("missing", wanted.keys() - given.keys()),
        _listed("unexpected", given.keys() - wanted.keys()),
        _listed(
            "of another shape",
            [
                f"{name} {given[name]} instead of {wanted[name]}"
                for name in wanted.keys() & given.keys()
                if given[name] != wanted[name]
            ],
        ),
    ]
    found = [problem for problem in problems if problem]
    if found:
        raise CheckpointMismatch(
            f"{file_name} does not fit this network: {'; '.join(found)}. "
            "Is it the checkpoint of another version?"
        )
    network.load_state_dict(state, assign=True)


def save_state(network: nn.Module, path: Path, dtype: torch.dtype) -> None:
    """Save a network's tensors as safetensors, whole or not at all, for fast later starts."""
    state = {
        name: tensor.to(dtype if tensor.is_floating_point() else tensor.dtype).contiguous()
        for name, tensor in network.state_dict().items()
    }
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=".saving-", suffix=".safetensors")
    os.close(handle)
    try:
        save_file(state, part)
        Path(part).replace(path)
    finally:
        Path(part).unlink(missing_ok=True)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise _unreadable(path) from error


def _read_torch_file(path: Path) -> dict[str, Any]:
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, ValueError) as error:
        raise _unreadable(path) from error
    if not isinstance(checkpoint, dict):
        raise CheckpointUnreadable(f"{path.name} holds no named tensors. Fetch it again.")
    return checkpoint


def _is_zip(path: Path) -> bool:
    return path.is_file() and zipfile.is_zipfile(path)


def _unreadable(path: Path) -> CheckpointUnreadable:
    """Say what lies there instead of a checkpoint, and what to do."""
    if not path.is_file():
        return CheckpointUnreadable(f"{path.name} is missing. Fetch the weights.")
    if not os.access(path, os.R_OK):
        return CheckpointUnreadable(f"{path.name} may not be read. Change its permissions.")
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES).lstrip().lower()
    if head.startswith((b"<!doctype", b"<html")):
        return CheckpointUnreadable(
            f"{path.name} is a web page, not a checkpoint: the download was answered with an error "
            "page. Delete it and fetch it again."
        )
    return CheckpointUnreadable(
        f"{path.name} is damaged or cut off ({path.stat().st_size} bytes). "
        "Delete it and fetch it again."
    )


def _listed(problem: str, names: Iterable[str]) -> str:
    ordered = sorted(names)
    if not ordered:
        return ""
    more = f" and {len(ordered) - _NAMES_SHOWN} more" if len(ordered) > _NAMES_SHOWN else ""
    return f"{len(ordered)} {problem} ({', '.join(ordered[:_NAMES_SHOWN])}{more})"

"""Reads files of weights safely, and says what is wrong with one that cannot be used."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from latentsync.errors import CheckpointMismatch, CheckpointUnusable

StateDict = dict[str, Tensor]

_REMEDY = "Delete the file and fetch it again with `latentsync weights pull`."
_ZIP = b"PK\x03\x04"  # torch's format since 1.6
_PICKLE = b"\x80"  # its older one
# What torch raises over a file that breaks off; OSError comes from seeking beyond its ends.
_DAMAGE = (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError)
_NAMES_SHOWN = 3  # of each kind in a message


@dataclass(frozen=True)
class Differences:
    """How a file's tensors differ from a network's; names in order.

    Attributes:
        missing: names that only the network has.
        unexpected: names that only the file has.
        misshapen: name, shape in the file, shape in the network.
    """

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.misshapen)

    def __str__(self) -> str:
        shapes = [f"{name} {got} instead of {wanted}" for name, got, wanted in self.misshapen]
        kinds = {
            "missing": self.missing,
            "unexpected": self.unexpected,
            "of another shape": shapes,
        }
        return "; ".join(_count(names, kind) for kind, names in kinds.items() if names)


def read_checkpoint(path: Path) -> Mapping[str, Any]:
    """Return what a ``.pt`` or ``.safetensors`` file holds, without running code from it.

    Tensors stay in the mapped file until they are used, where the format allows it.

    Raises:
        CheckpointUnusable: the file is missing, unreadable, truncated, a web page, or holds more
            than plain values and tensors.
    """
    try:
        with path.open("rb") as file:
            head = file.read(512)
        _refuse_text(path, head)
        if path.suffix == ".safetensors":
            return load_file(path)
        return _unpickle(path, head)
    except OSError as error:
        raise CheckpointUnusable(_explain_os_error(path, error)) from error
    except SafetensorError as error:
        raise CheckpointUnusable(f"{path.name} is truncated or damaged. {_REMEDY}") from error


def read_state(path: Path, wrapper: str = "state_dict") -> StateDict:
    """Return the named tensors of a checkpoint.

    Args:
        path: the file.
        wrapper: key under which the tensors may lie; without it they are the file itself.
            A ``module.`` before every name is taken off.

    Raises:
        CheckpointUnusable: as :func:`read_checkpoint`, or the file holds no named tensors.
    """
    return named_tensors(read_checkpoint(path), path.name, wrapper)


def named_tensors(loaded: Mapping[str, Any], file_name: str, wrapper: str) -> StateDict:
    """Return the tensors of what :func:`read_checkpoint` returned; see :func:`read_state`."""
    values = loaded.get(wrapper, loaded)
    state = {}
    if isinstance(values, Mapping):
        state = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    if not state:
        raise CheckpointUnusable(f"{file_name} holds no named tensors. {_REMEDY}")
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return state


def compare(state: Mapping[str, Tensor], network: nn.Module) -> Differences:
    """Return how ``state`` differs from the names and shapes of ``network``."""
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in state.items()}
    return Differences(
        missing=tuple(name for name in wanted if name not in given),
        unexpected=tuple(name for name in given if name not in wanted),
        misshapen=tuple(
            (name, given[name], shape)
            for name, shape in wanted.items()
            if name in given and given[name] != shape
        ),
    )


def require_match(state: Mapping[str, Tensor], network: nn.Module, file_name: str) -> None:
    """Raise CheckpointMismatch, naming what differs, unless ``state`` fits ``network``."""
    if differences := compare(state, network):
        raise mismatch(file_name, differences)


def mismatch(file_name: str, differences: Differences, cause: str = "") -> CheckpointMismatch:
    """Return the error for a file that does not fit; ``cause`` is one more sentence."""
    cause = cause or "It is not the file of this network or of another version of it. " + _REMEDY
    return CheckpointMismatch(f"{file_name} does not fit the network: {differences}. {cause}")


def place(state: StateDict, device: torch.device, dtype: torch.dtype) -> StateDict:
    """Return the tensors on ``device`` in ``dtype``; kernels of convolutions channels last there.

    On the CPU kernels keep their layout: torch reorders them in each call anyway, and a mapped
    file is used as it lies.
    """
    placed = {name: value.to(device, dtype) for name, value in state.items()}
    if device.type == "cpu":
        return placed
    return {
        name: value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value
        for name, value in placed.items()
    }


def fill(network: nn.Module, state: StateDict) -> None:
    """Make ``state`` the weights of ``network`` without copying; names and shapes must match."""
    network.load_state_dict(state, assign=True)
    network.requires_grad_(False)


def _unpickle(path: Path, head: bytes) -> Mapping[str, Any]:
    if not head.startswith((_ZIP, _PICKLE)):
        raise CheckpointUnusable(f"{path.name} is not a PyTorch checkpoint. {_REMEDY}")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=head.startswith(_ZIP))
    except _DAMAGE as error:
        if "GLOBAL" in str(error):  # the name of the refused instruction
            raise CheckpointUnusable(
                f"{path.name} holds code beside its tensors, which is never run. {_REMEDY}"
            ) from error
        raise CheckpointUnusable(f"{path.name} is truncated or damaged. {_REMEDY}") from error
    if not isinstance(loaded, Mapping):
        raise CheckpointUnusable(f"{path.name} holds no named tensors. {_REMEDY}")
    return loaded


def _refuse_text(path: Path, head: bytes) -> None:
    """Refuse what a hub or a proxy sends in place of a file."""
    text = head.lstrip().lower()
    if not head:
        raise CheckpointUnusable(f"{path.name} is empty. {_REMEDY}")
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise CheckpointUnusable(f"{path.name} is a web page, not a checkpoint. {_REMEDY}")
    if text.startswith(b"version https://git-lfs"):
        raise CheckpointUnusable(f"{path.name} is a Git LFS pointer, not the file. {_REMEDY}")


def _explain_os_error(path: Path, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{path.name} is missing. Fetch it with `latentsync weights pull`."
    if isinstance(error, PermissionError):
        return f"{path.name} may not be read. Give this user the right to read it."
    return f"{path.name} cannot be read: {error.strerror or type(error).__name__}. {_REMEDY}"


def _count(names: Sequence[str], kind: str) -> str:
    rest = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return f"{len(names)} {kind} ({', '.join(names[:_NAMES_SHOWN])}{rest})"

"""Reads checkpoints safely, with errors that name the problem, and caches them in half precision.

The published file is 5 GB of float32, of which a GPU needs 2.5 GB of float16. The cache is a mapped
safetensors file next to the checkpoint, so a start reads every byte once and converts nothing.
Convolution kernels are stored channels last, as the networks use them.
"""

import logging
import os
import pickle
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from latentsync.errors import CheckpointMismatch, CheckpointUnusable

StateDict = dict[str, Tensor]

_REMEDY = "Delete the file and fetch it again with `latentsync weights pull`."
_ZIP = b"PK\x03\x04"  # format of torch since 1.6
_PICKLE = b"\x80"  # older format of torch
# Raised by torch for truncated files; OSError by seeks outside of the file.
_DAMAGE = (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError)
_NAMES_SHOWN = 3  # of each kind in a message


@dataclass(frozen=True)
class Differences:
    """Differences between the tensors of a file and those of a network, in order.

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
    """Load a ``.pt`` or ``.safetensors`` file without running code from it.

    Files are memory-mapped where the format allows it.

    Raises:
        CheckpointUnusable: the file is missing, unreadable, truncated, a web page, or contains
            more than plain values and tensors.
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
        wrapper: key of the tensors; if there is none, they are the file's top level. A prefix
            ``module.`` of all names is removed.

    Raises:
        CheckpointUnusable: as :func:`read_checkpoint`, or the file contains no named tensors.
    """
    return named_tensors(read_checkpoint(path), path.name, wrapper)


def named_tensors(loaded: Mapping[str, Any], file_name: str, wrapper: str) -> StateDict:
    """Return the tensors of what :func:`read_checkpoint` returned; see :func:`read_state`."""
    values = loaded.get(wrapper, loaded)
    state = {}
    if isinstance(values, Mapping):
        state = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    if not state:
        raise CheckpointUnusable(f"{file_name} contains no named tensors. {_REMEDY}")
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
    """Raise CheckpointMismatch, with the differences, unless ``state`` fits ``network``."""
    if differences := compare(state, network):
        raise mismatch(file_name, differences)


def mismatch(file_name: str, differences: Differences, cause: str = "") -> CheckpointMismatch:
    """Return the error for a file that does not fit; ``cause`` is a further sentence."""
    cause = cause or "It is not the file of this network or of another version of it. " + _REMEDY
    return CheckpointMismatch(f"{file_name} does not fit the network: {differences}. {cause}")


def place(state: StateDict, device: torch.device, dtype: torch.dtype) -> StateDict:
    """Return the tensors on ``device`` in ``dtype``, with convolution kernels channels last.

    On the CPU kernels keep their layout: torch reorders them in each call anyway, and mapped files
    are used without a copy.
    """
    placed = {name: value.to(device, dtype) for name, value in state.items()}
    if device.type == "cpu":
        return placed
    return {
        name: value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value
        for name, value in placed.items()
    }


def fill(network: nn.Module, state: StateDict) -> None:
    """Assign ``state`` to ``network`` without copying; names and shapes must match."""
    network.load_state_dict(state, assign=True)
    network.requires_grad_(False)


def _unpickle(path: Path, head: bytes) -> Mapping[str, Any]:
    if not head.startswith((_ZIP, _PICKLE)):
        raise CheckpointUnusable(f"{path.name} is not a PyTorch checkpoint. {_REMEDY}")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=head.startswith(_ZIP))
    except _DAMAGE as error:
        if "GLOBAL" in str(error):  # the name of the refused pickle opcode
            raise CheckpointUnusable(
                f"{path.name} contains code, which is never run. {_REMEDY}"
            ) from error
        raise CheckpointUnusable(f"{path.name} is truncated or damaged. {_REMEDY}") from error
    if not isinstance(loaded, Mapping):
        raise CheckpointUnusable(f"{path.name} contains no named tensors. {_REMEDY}")
    return loaded


def _refuse_text(path: Path, head: bytes) -> None:
    """Refuse pages that a hub or a proxy sends instead of the file."""
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
        return f"{path.name} is not readable for this user. Check its permissions."
    return f"{path.name} cannot be read: {error.strerror or type(error).__name__}. {_REMEDY}"


def _count(names: Sequence[str], kind: str) -> str:
    rest = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return f"{len(names)} {kind} ({', '.join(names[:_NAMES_SHOWN])}{rest})"


logger = logging.getLogger(__name__)

_WRITTEN_WITHIN_S = 3600  # older temporary files were left behind
_LAYOUT = "1"  # version of the cache file
_LEFT_FREE_BYTES = 256 * 1024**2  # kept free on the disk for results, the database and logs


def cache_path(checkpoint: Path, dtype: torch.dtype) -> Path:
    """Return the path of the cache of ``checkpoint`` in ``dtype``."""
    return checkpoint.with_name(f"{checkpoint.stem}.{_name(dtype)}.safetensors")


def read_cache(checkpoint: Path, dtype: torch.dtype, device: torch.device) -> StateDict | None:
    """Return the cached tensors on ``device``, or None if there is no cache of this checkpoint."""
    path = cache_path(checkpoint, dtype)
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            if file.metadata() != _stamp(checkpoint, dtype):
                logger.info("%s belongs to another checkpoint and is written again", path.name)
                return None
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        logger.warning("%s cannot be read and is written again: %s", path.name, error)
        return None
    return {
        name: value.permute(0, 3, 1, 2) if value.ndim == 4 else value
        for name, value in state.items()
    }


def write_cache(checkpoint: Path, dtype: torch.dtype, state: StateDict) -> bool:
    """Write the cache. If that fails, a warning is logged and later starts are slower.

    Args:
        checkpoint: the file that ``state`` was read from.
        dtype: type of the tensors.
        state: named tensors on the CPU.

    Returns:
        Whether the cache was written.
    """
    stored = {
        name: (value.permute(0, 2, 3, 1) if value.ndim == 4 else value).contiguous()
        for name, value in state.items()
    }
    target = cache_path(checkpoint, dtype)
    _sweep(target)
    temporary: Path | None = None
    try:
        _require_room(target.parent, sum(value.nbytes for value in stored.values()))
        with NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as file:
            temporary = Path(file.name)
        save_file(stored, temporary, metadata=_stamp(checkpoint, dtype))
        temporary.chmod(checkpoint.stat().st_mode & 0o666)  # same permissions as the checkpoint
        os.replace(temporary, target)
    except (OSError, SafetensorError) as error:
        logger.warning("%s was not written, so later starts are slow: %s", target.name, error)
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        return False
    return True


def _require_room(folder: Path, size_bytes: int) -> None:
    disk = shutil.disk_usage(folder)
    # Some cloud volumes report no sizes.
    if disk.total and disk.free < size_bytes + _LEFT_FREE_BYTES:
        raise OSError(
            f"it needs {size_bytes} bytes; {disk.free} are free, {_LEFT_FREE_BYTES} are reserved"
        )


def _sweep(target: Path) -> None:
    """Remove temporary files of processes that were killed while writing the cache."""
    with suppress(OSError):  # a read-only folder, or a concurrent sweep
        for left in target.parent.glob(f".{target.name}.*"):
            if time.time() - left.stat().st_mtime > _WRITTEN_WITHIN_S:
                left.unlink()


def _stamp(checkpoint: Path, dtype: torch.dtype) -> dict[str, str]:
    """Return the metadata that identifies the checkpoint: size and modification time."""
    status = checkpoint.stat()
    return {
        "layout": _LAYOUT,
        "dtype": _name(dtype),
        "size_bytes": str(status.st_size),
        "modified_s": str(int(status.st_mtime)),  # some volumes store whole seconds only
    }


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

"""A copy of a checkpoint in the type it is used in, beside it, for quick later starts.

The published file is float32 of 5 GB; a GPU wants 2.5 GB of float16. The copy is a safetensors
file that is mapped, so a start reads every byte once and converts nothing. Kernels of convolutions
are stored channels last, as the networks use them.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from latentsync.models.checkpoint import StateDict

logger = logging.getLogger(__name__)

_WRITTEN_WITHIN_S = 3600  # a copy that is older than this and not in place will never be
_LAYOUT = "1"  # of this file; changes when what is stored changes
_LEFT_FREE_BYTES = 256 * 1024**2  # on the disk, for what cannot wait: results, records, logs


def cache_path(checkpoint: Path, dtype: torch.dtype) -> Path:
    """Return where the copy of ``checkpoint`` in ``dtype`` lies."""
    return checkpoint.with_name(f"{checkpoint.stem}.{_name(dtype)}.safetensors")


def read_cache(checkpoint: Path, dtype: torch.dtype, device: torch.device) -> StateDict | None:
    """Return the tensors of the copy on ``device``, or None if there is none of this checkpoint."""
    path = cache_path(checkpoint, dtype)
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            if file.metadata() != _stamp(checkpoint, dtype):
                logger.info("%s belongs to another checkpoint and is made anew", path.name)
                return None
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        logger.warning("%s cannot be read and is made anew: %s", path.name, error)
        return None
    return {
        name: value.permute(0, 3, 1, 2) if value.ndim == 4 else value
        for name, value in state.items()
    }


def write_cache(checkpoint: Path, dtype: torch.dtype, state: StateDict) -> bool:
    """Write the copy; a folder without room or permission costs later starts time, no more.

    Args:
        checkpoint: the file that ``state`` was read from.
        dtype: type of the tensors.
        state: named tensors on the CPU.

    Returns:
        Whether the copy is there now.
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
        temporary.chmod(checkpoint.stat().st_mode & 0o666)  # whoever may read one may read both
        os.replace(temporary, target)
    except (OSError, SafetensorError) as error:
        logger.warning("%s was not written, later starts stay slow: %s", target.name, error)
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        return False
    return True


def _require_room(folder: Path, size_bytes: int) -> None:
    disk = shutil.disk_usage(folder)
    # Some volumes of clouds tell no sizes at all.
    if disk.total and disk.free < size_bytes + _LEFT_FREE_BYTES:
        raise OSError(
            f"it has {size_bytes} bytes, {disk.free} are free, and {_LEFT_FREE_BYTES} stay so"
        )


def _sweep(target: Path) -> None:
    """Remove what starts that were killed while they wrote have left beside the copy."""
    with suppress(OSError):  # a folder that may not be written to, or another start that sweeps
        for left in target.parent.glob(f".{target.name}.*"):
            if time.time() - left.stat().st_mtime > _WRITTEN_WITHIN_S:
                left.unlink()


def _stamp(checkpoint: Path, dtype: torch.dtype) -> dict[str, str]:
    """Return what ties a copy to its checkpoint: size and time of the file."""
    status = checkpoint.stat()
    return {
        "layout": _LAYOUT,
        "dtype": _name(dtype),
        "size_bytes": str(status.st_size),
        "modified_s": str(int(status.st_mtime)),  # some volumes keep whole seconds only
    }


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

"""Looks whether files will fit on the disk before the first byte comes."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from latentsync.errors import DiskFull

_MARGIN_BYTES = 256 * 1024 * 1024  # for everything else on that disk


def require_space(needs: Iterable[tuple[Path, int]]) -> None:
    """Raise DiskFull unless every disk has room for all that goes to it.

    Args:
        needs: folder (it need not exist yet) and bytes that are still to come into it.
    """
    disks: dict[int, tuple[Path, int]] = {}
    for folder, size_bytes in needs:
        there = _existing(folder)
        device = there.stat().st_dev
        disks[device] = (there, size_bytes + disks.get(device, (there, 0))[1])
    for there, size_bytes in disks.values():
        disk = shutil.disk_usage(there)
        needed_bytes = size_bytes + _MARGIN_BYTES
        # Some volumes of clouds tell no sizes at all.
        if size_bytes and disk.total and disk.free < needed_bytes:
            raise DiskFull(
                f"The weights need {needed_bytes} bytes of free disk space, {disk.free} are free. "
                "Make room, or set LATENTSYNC_WEIGHTS_DIR to a folder on another disk."
            )


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())

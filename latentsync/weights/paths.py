"""Paths and addresses of weights files, and the check of free disk space.

Hidden companions of a file ``x.pt``: ``.x.pt.stamp`` (checksum record), ``.x.pt.part`` and
``.x.pt.part.json`` (partial download and its origin) and ``.x.pt.lock`` (held during a download).
All of them may be deleted while no process downloads.
"""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from latentsync.errors import DiskFull
from latentsync.settings import Settings
from latentsync.weights.catalog import HUB, ArchiveMember, HubFile, WeightsFile

_TRUE = {"1", "ON", "YES", "TRUE"}  # as huggingface_hub reads its variables


def path_of(file: WeightsFile, settings: Settings) -> Path:
    """Return the full path of a file of weights; for the log and for opening it."""
    folder = settings.weights_dir if file.folder == "weights" else torch_hub_folder()
    return folder.joinpath(*file.path.split("/"))


def location(file: WeightsFile) -> str:
    """Return where a file belongs, as text that is safe to send to callers."""
    if file.folder == "weights":
        return f"{file.path} in the weights folder (LATENTSYNC_WEIGHTS_DIR)"
    return f"hub/checkpoints/{file.path} in torch's cache (TORCH_HOME)"


def torch_hub_folder() -> Path:
    """Return ``torch.hub.get_dir()/checkpoints`` without importing torch."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("TORCH_HOME", os.path.join(cache, "torch"))
    return Path(os.path.expanduser(home), "hub", "checkpoints")


def sidecar(path: Path, suffix: str) -> Path:
    """Return the hidden companion of ``path`` with this suffix, such as ``".part"``."""
    return path.with_name(f".{path.name}{suffix}")


def is_offline(settings: Settings) -> bool:
    """Tell whether downloads are forbidden."""
    return settings.offline or os.environ.get("HF_HUB_OFFLINE", "").upper() in _TRUE


def endpoint(settings: Settings) -> str:
    """Return the hub's base address: the setting, else HF_ENDPOINT, else the public hub."""
    return (settings.weights_mirror or os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")


def web_address(url: str, settings: Settings) -> str:
    """Return the address to use for ``url``: the public hub is replaced by the mirror."""
    return endpoint(settings) + url.removeprefix(HUB) if url.startswith(f"{HUB}/") else url


def hub_address(file: HubFile, settings: Settings) -> str:
    """Return the address of a hub file."""
    return f"{endpoint(settings)}/{file.repository}/resolve/{file.revision}/{file.file}"


def addresses(file: WeightsFile, settings: Settings) -> list[str]:
    """Return a file's addresses in order, safe to show."""
    source = file.source
    if isinstance(source, HubFile):
        return [showable(hub_address(source, settings))]
    if isinstance(source, ArchiveMember):
        return [f"{showable(source.url)} ({source.member} in it)"]
    return [showable(web_address(url, settings)) for url in source.urls]


def showable(url: str) -> str:
    """Return an address without any password, key or signature."""
    try:
        parts = urlsplit(url)
    except ValueError:  # brackets that do not close
        return "(no valid address)"
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


_MARGIN_BYTES = 256 * 1024 * 1024  # for everything else on the disk


def require_space(needs: Iterable[tuple[Path, int]]) -> None:
    """Raise DiskFull unless every disk has room for the downloads to it.

    Args:
        needs: folder (which may not exist yet) and bytes still to be downloaded into it.
    """
    disks: dict[int, tuple[Path, int]] = {}
    for folder, size_bytes in needs:
        there = _existing(folder)
        device = there.stat().st_dev
        disks[device] = (there, size_bytes + disks.get(device, (there, 0))[1])
    for there, size_bytes in disks.values():
        disk = shutil.disk_usage(there)
        needed_bytes = size_bytes + _MARGIN_BYTES
        # Some cloud volumes report no sizes.
        if size_bytes and disk.total and disk.free < needed_bytes:
            raise DiskFull(
                f"The weights need {needed_bytes} bytes of free disk space, {disk.free} are free. "
                "Make room, or set LATENTSYNC_WEIGHTS_DIR to a folder on another disk."
            )


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())

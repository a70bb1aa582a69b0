"""A catalog of small files, laid out like the real one, and their contents."""

from __future__ import annotations

import io
import random
import zipfile
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from latentsync.weights.catalog import (
    CATALOG,
    ArchiveMember,
    Catalog,
    HubFile,
    WebFile,
    WeightsFile,
)
from tests.weights.hub import Hub

ARCHIVE_PATH = "/releases/v0.7/buffalo_l.zip"
VGG16_PATHS = ("/models/vgg16-397923af.pth", "/pytorch/vision/resolve/main/vgg16-397923af.pth")
ENGINE_FILES = (
    "latentsync-1.6/unet",
    "whisper-tiny",
    "sd-vae-ft-mse",
    "face-detector",
    "face-landmarks",
)
UNET = ENGINE_FILES[0]

Ensure = Callable[..., dict[str, Path]]


def content_of(name: str) -> bytes:
    """Return the small content that stands for a file: some hundred kilobytes of noise."""
    size_bytes = 400_000 if name.endswith("unet") else 60_000
    noise = random.Random(name).randbytes(size_bytes)
    if CATALOG[name].sha256 is None and CATALOG[name].path.endswith(".pt"):
        return _zip({"archive/data.pkl": noise})
    return noise


def archive() -> bytes:
    """Return the zip of the face networks, with more in it than is needed."""
    members = {"det_10g.onnx": "face-detector", "2d106det.onnx": "face-landmarks"}
    contents = {f"buffalo_l/{member}": content_of(name) for member, name in members.items()}
    return _zip({"buffalo_l/w600k_r50.onnx": b"not needed" * 1000, **contents})


def tiny_catalog(url: str) -> Catalog:
    """Return the real catalog with small files and, off the hub, addresses below ``url``."""
    return {name: _tiny(file, url) for name, file in CATALOG.items()}


def publish(hub: Hub) -> None:
    """Put every file of the catalog where a client will look for it."""
    for file in CATALOG.values():
        if isinstance(file.source, HubFile):
            hub.put(path_on_hub(file.name), content_of(file.name))
    hub.put(ARCHIVE_PATH, archive())
    for path in VGG16_PATHS:
        hub.put(path, content_of("vgg16"))


def path_on_hub(name: str) -> str:
    """Return the path of a hub file in its address."""
    source = CATALOG[name].source
    assert isinstance(source, HubFile)
    return f"/{source.repository}/resolve/{source.revision}/{source.file}"


UNET_PATH = path_on_hub(UNET)


def _tiny(file: WeightsFile, url: str) -> WeightsFile:
    content = content_of(file.name)
    digest = file.sha256 and sha256(content).hexdigest()[: len(file.sha256)]
    small = replace(file, size_bytes=len(content), sha256=digest, size_tolerance_bytes=0)
    if isinstance(file.source, ArchiveMember):
        packed = archive()
        source = replace(
            file.source,
            url=url + ARCHIVE_PATH,
            archive_sha256=sha256(packed).hexdigest(),
            archive_bytes=len(packed),
        )
        return replace(small, source=source)
    if isinstance(file.source, WebFile):
        return replace(small, source=WebFile(tuple(url + path for path in VGG16_PATHS)))
    return small


def everything_in(folder: Path) -> list[str]:
    """Return the names of all files below a folder, hidden ones, too."""
    return sorted(path.name for path in folder.rglob("*") if not path.is_dir())


def _zip(members: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            # A fixed date: the same bytes every time.
            archive.writestr(zipfile.ZipInfo(name), content)
    return packed.getvalue()

"""Every weights file: its source, size, hash, licence and users.

Revisions are pinned where known. Sizes and hashes are the publishers'; an unverified one has a size
tolerance or a hash of None. The hash of such a file is recorded at its first download and compared
from then on.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from latentsync.errors import EngineUnavailable
from latentsync.schema.engines import engine_spec
from latentsync.settings import Settings

HUB = "https://huggingface.co"  # unless HF_ENDPOINT or a setting names another


@dataclass(frozen=True)
class HubFile:
    """A file in a repository of the hub; ``revision`` is a commit or, unpinned, a branch."""

    repository: str
    revision: str
    file: str


@dataclass(frozen=True)
class WebFile:
    """A file on the web; the addresses are tried in this order."""

    urls: tuple[str, ...]


@dataclass(frozen=True)
class ArchiveMember:
    """A file inside a zip on the web, found by its base name; only the archive's hash is known."""

    url: str
    archive_sha256: str
    archive_bytes: int  # about; for the check of free disk space
    member: str


@dataclass(frozen=True)
class WeightsFile:
    """One file of weights.

    Attributes:
        name: its name for engines and on the command line.
        path: inside its folder, with forward slashes.
        source: of the download.
        size_bytes: its size.
        sha256: its hash in hex, or the beginning of it, or None where no publisher states one.
        licence: of the file.
        needed_by: what reads it.
        size_tolerance_bytes: by how much the size may differ; 0 where the size is known exactly.
        folder: the weights folder, or torch hub's folder of checkpoints.
    """

    name: str
    path: str
    source: HubFile | WebFile | ArchiveMember
    size_bytes: int
    sha256: str | None
    licence: str
    needed_by: tuple[str, ...]
    size_tolerance_bytes: int = 0
    folder: Literal["weights", "torch_hub"] = "weights"

    @property
    def sizes(self) -> range:
        """The sizes in bytes that the file may have."""
        slack = self.size_tolerance_bytes
        return range(max(1, self.size_bytes - slack), self.size_bytes + slack + 1)


Catalog = Mapping[str, WeightsFile]

_LATENTSYNC = ("latentsync-1.5", "latentsync-1.6")
_LATENTSYNC_1_6_REVISION = "c42c7e6c8e9c213626389fa7d9a3c444b8536353"
_BUFFALO_URL = "https://github.com/deepinsight/insightface/releases/download/v0.7/buffalo_l.zip"
_BUFFALO_SHA256 = "80ffe37d8a5940d59a7384c201a2a38d4741f2f3c51eef46ebb28218a7b0ca2f"
_BUFFALO_BYTES = 290_000_000  # unverified
_INSIGHTFACE_LICENCE = "InsightFace: non-commercial research only"

_FILES = (
    WeightsFile(
        name="latentsync-1.6/unet",
        path="latentsync-1.6/latentsync_unet.pt",
        source=HubFile("ByteDance/LatentSync-1.6", _LATENTSYNC_1_6_REVISION, "latentsync_unet.pt"),
        size_bytes=5_072_222_488,
        sha256="0a478e89eb660f82da4c35dbdde8a5adfb27f99d1b4e50edd03729e1e98316d3",
        licence="OpenRAIL++",
        needed_by=("latentsync-1.6",),
    ),
    WeightsFile(  # unverified: revision, exact size and hash
        name="latentsync-1.5/unet",
        path="latentsync-1.5/latentsync_unet.pt",
        source=HubFile("ByteDance/LatentSync-1.5", "main", "latentsync_unet.pt"),
        size_bytes=5_072_222_488,  # same tensors as 1.6
        size_tolerance_bytes=10_000_000,
        sha256=None,
        licence="OpenRAIL++",
        needed_by=("latentsync-1.5",),
    ),
    WeightsFile(
        name="whisper-tiny",
        path="whisper/tiny.pt",
        source=HubFile("ByteDance/LatentSync-1.6", _LATENTSYNC_1_6_REVISION, "whisper/tiny.pt"),
        size_bytes=75_572_083,
        sha256="65147644a518d12f04e32d6f3b26facc3f8dd46e5390956a9424a650c0ce22b9",
        licence="MIT",
        needed_by=_LATENTSYNC,
    ),
    WeightsFile(  # unverified: hash
        name="sd-vae-ft-mse",
        path="sd-vae-ft-mse/diffusion_pytorch_model.safetensors",
        source=HubFile(
            "stabilityai/sd-vae-ft-mse",
            "31f26fdeee1355a5c34592e401dd41e45d25a493",
            "diffusion_pytorch_model.safetensors",
        ),
        size_bytes=334_643_276,
        sha256=None,
        licence="MIT",
        needed_by=_LATENTSYNC,
    ),
    WeightsFile(
        name="face-detector",
        path="face/det_10g.onnx",
        source=ArchiveMember(_BUFFALO_URL, _BUFFALO_SHA256, _BUFFALO_BYTES, "det_10g.onnx"),
        size_bytes=16_923_827,
        sha256=None,
        licence=_INSIGHTFACE_LICENCE,
        needed_by=_LATENTSYNC,
    ),
    WeightsFile(
        name="face-landmarks",
        path="face/2d106det.onnx",
        source=ArchiveMember(_BUFFALO_URL, _BUFFALO_SHA256, _BUFFALO_BYTES, "2d106det.onnx"),
        size_bytes=5_030_888,
        sha256=None,
        licence=_INSIGHTFACE_LICENCE,
        needed_by=_LATENTSYNC,
    ),
    WeightsFile(  # unverified: exact size; the hash's beginning is in the name
        name="vgg16",
        path="vgg16-397923af.pth",
        source=WebFile(
            (
                "https://download.pytorch.org/models/vgg16-397923af.pth",
                f"{HUB}/pytorch/vision/resolve/main/vgg16-397923af.pth",
            )
        ),
        size_bytes=553_000_000,
        size_tolerance_bytes=27_000_000,  # "528 MB", of either kind
        sha256="397923af",
        licence="BSD-3-Clause (torchvision)",
        needed_by=("training's perceptual loss",),
        folder="torch_hub",
    ),
)

CATALOG: Catalog = {file.name: file for file in _FILES}


def weights_for(engine: str, settings: Settings) -> tuple[str, ...]:
    """Return the names of the files that an engine reads, for ``cold_start.ensure``.

    The two face networks are among them only where ``settings.face_landmarks`` asks for them.
    VGG16 never is: inference does not read it.

    Raises:
        EngineUnavailable: there is no such engine.
    """
    spec = engine_spec(engine)
    return spec.weights + (spec.face_weights if settings.face_landmarks == "insightface" else ())


def look_up(names: tuple[str, ...], catalog: Catalog) -> list[WeightsFile]:
    """Return the entries with these names, each once, in this order.

    Raises:
        EngineUnavailable: a name is not in the catalog.
    """
    for name in names:
        if name not in catalog:
            raise EngineUnavailable(
                f"There are no weights named {name!r}. Known: {', '.join(catalog)}."
            )
    return [catalog[name] for name in dict.fromkeys(names)]

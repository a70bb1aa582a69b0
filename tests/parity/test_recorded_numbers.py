"""The package reproduces every recorded array of the small set, and of a larger one if given."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.parity.__main__ import main
from tests.parity.folder import Folder

_GOLDEN = Path(__file__).parents[1] / "golden"
_ARRAYS = sorted(path.relative_to(_GOLDEN).as_posix() for path in _GOLDEN.rglob("*.npz"))
_REFERENCE = os.environ.get("LATENTSYNC_REFERENCE")  # a folder as in folder.py


@pytest.fixture(scope="module")
def folder(small_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return Folder(small_set, tmp_path_factory.mktemp("weights"))


@pytest.mark.parametrize("file", [name for name in _ARRAYS if name != "detector/images.npz"])
def test_every_array_is_reproduced(folder: Folder, file: str) -> None:
    lines = list(folder.check(f"golden/{file}"))
    assert [str(line) for line in lines if line.failed] == []
    assert any(line.verdict == "ok" for line in lines)


@pytest.mark.parametrize(
    "file",
    [
        "golden/meta.json",
        "golden/tiny_unet_config.json",
        "golden/tiny_unet_manifest.json",
        "golden/tiny_vae_config.json",
        "golden/tiny_vae_manifest.json",
        "golden/tiny_whisper_dims.json",
        "golden/tiny_whisper_manifest.json",
        "manifests/unet_stage2.json",
        "manifests/unet_stage2_512.json",
        "manifests/vae_sd_ft_mse.json",
        "manifests/whisper_tiny.json",
        "mask_geometry.json",
    ],
)
def test_every_document_agrees(folder: Folder, file: str) -> None:
    (line,) = folder.check(file)
    assert line.verdict == "ok", str(line)


@pytest.mark.slow
@pytest.mark.skipif(_REFERENCE is None, reason="LATENTSYNC_REFERENCE is not set; needs 8 GB")
def test_every_array_of_the_whole_set_is_reproduced() -> None:
    assert main(["--reference", str(_REFERENCE)]) == 0

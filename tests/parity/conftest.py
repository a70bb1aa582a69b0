"""The small set of recorded numbers, laid out as the harness wants it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

_TESTS = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """One thread: tests run side by side."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the small set; do not change it."""
    root = tmp_path_factory.mktemp("reference")
    shutil.copytree(_TESTS / "golden", root / "golden")
    shutil.copytree(_TESTS / "manifests", root / "manifests")
    # Versions 1.5 and 1.6 have the same names and shapes.
    shutil.copy(root / "manifests/unet_stage2.json", root / "manifests/unet_stage2_512.json")
    shutil.copy(_TESTS.parent / "assets/mask_geometry.json", root)
    return root

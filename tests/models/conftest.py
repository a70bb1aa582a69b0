from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from latentsync.models.unet import UNet3DConditionModel
from tests.models.stand_ins import load_tiny_unet


@pytest.fixture(autouse=True)
def quiet_torch() -> Iterator[None]:
    """One thread, no gradients: tests run side by side."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def unet(tmp_path_factory: pytest.TempPathFactory) -> UNet3DConditionModel:
    """The tiny UNet in float32, loaded as in production."""
    return load_tiny_unet(tmp_path_factory.mktemp("unet"))


@pytest.fixture(scope="session")
def exact_unet(tmp_path_factory: pytest.TempPathFactory) -> UNet3DConditionModel:
    """The tiny UNet in float64, where equal formulas give equal numbers."""
    return load_tiny_unet(tmp_path_factory.mktemp("exact"), dtype=torch.float64)

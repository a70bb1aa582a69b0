from __future__ import annotations

import pytest

from latentsync.config import read_config
from latentsync.errors import EngineUnavailable
from latentsync.models.config import LatentSyncConfig, UNetConfig


@pytest.mark.parametrize(("version", "resolution"), [("1.5", 256), ("1.6", 512)])
def test_the_files_state_every_value(version: str, resolution: int) -> None:
    config = read_config(f"latentsync-{version}", LatentSyncConfig)
    wanted = LatentSyncConfig(model_version=f"latentsync-{version}", resolution=resolution)
    assert config == wanted
    assert type(config.unet.norm_eps) is float


def test_an_error_of_the_network_names_the_option_and_what_is_allowed() -> None:
    with pytest.raises(EngineUnavailable, match=r"freq_shift=1; this network requires 0\."):
        UNetConfig(freq_shift=1)

"""Layers are found by their recorded names and brought to the recorded layouts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.models.stand_ins import load_tiny_unet
from tests.parity.checks.unet_layers import LayerRecorder

_BATCH, _FRAMES, _SIDE = 2, 3, 8
_MOTION = "down_blocks_0_motion_modules_1_temporal_transformer"


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LayerRecorder]:
    unet = load_tiny_unet(tmp_path_factory.mktemp("unet"))
    sample = torch.randn(_BATCH, 13, _FRAMES, _SIDE, _SIDE)
    with torch.inference_mode():
        with LayerRecorder(unet, batch=_BATCH, num_frames=_FRAMES) as recorder:
            unet(sample, 501, torch.randn(_BATCH * _FRAMES, 50, 32))
        yield recorder


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("time_proj", (2, 32)),
        ("time_embedding", (2, 128)),
        ("conv_in", (2, 32, 3, 8, 8)),
        ("conv_act", (2, 32, 3, 8, 8)),
        ("down_blocks_0", (2, 32, 3, 4, 4)),
        ("down_blocks_3", (2, 64, 3, 1, 1)),
        ("down_blocks_0_attentions_0_proj_in", (6, 32, 8, 8)),
        ("down_blocks_0_attentions_0_transformer_blocks_0", (6, 64, 32)),
        ("mid_block_resnets_1", (2, 64, 3, 1, 1)),
        ("up_blocks_2", (2, 64, 3, 8, 8)),
        ("up_blocks_3", (2, 32, 3, 8, 8)),
        (f"{_MOTION}_norm", (6, 32, 8, 8)),
        (f"{_MOTION}_transformer_blocks_0_norms_0", (128, 3, 32)),
        (f"{_MOTION}_transformer_blocks_0_ff", (6, 64, 32)),
    ],
)
def test_layers_come_in_the_recorded_layout(
    layers: LayerRecorder, name: str, shape: tuple[int, ...]
) -> None:
    assert layers.value(name, shape).shape == shape


def test_layouts_hold_the_same_values(layers: LayerRecorder) -> None:
    name = "down_blocks_0_resnets_0"
    video = layers.value(name, (2, 32, 3, 8, 8))
    pictures = layers.value(name, (6, 32, 8, 8))
    tokens = layers.value(name, (6, 64, 32))
    assert torch.equal(video[1, :, 2], pictures[5])
    assert torch.equal(pictures[5, :, 3, 4], tokens[5, 3 * 8 + 4])


def test_tokens_of_motion_modules_are_frames(layers: LayerRecorder) -> None:
    name = f"{_MOTION}_proj_in"
    by_pixel, by_frame = layers.value(name, (128, 3, 32)), layers.value(name, (6, 64, 32))
    assert torch.equal(by_pixel[64 + 5, 2], by_frame[3 + 2, 5])


@pytest.mark.parametrize("name", ["down_blocks_9", "conv", "down_blocks_0_resnets_0_conv1"])
def test_what_the_network_does_not_compute_is_named(layers: LayerRecorder, name: str) -> None:
    with pytest.raises(KeyError, match="no layer|by itself"):
        layers.value(name)

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from latentsync.errors import CheckpointMismatch, CheckpointUnusable
from latentsync.models.checkpoint import cache_path
from latentsync.models.unet import UNet3DConditionModel
from tests.models.stand_ins import StateDict, golden_state, save_unet, tiny_unet_config


def build(**changes: object) -> UNet3DConditionModel:
    return UNet3DConditionModel.from_config(tiny_unet_config() | changes)


def version_1_0() -> StateDict:
    return {name: value for name, value in golden_state("unet").items() if "motion" not in name}


def test_the_published_layout_loads(tmp_path: Path) -> None:
    unet = build()
    report = unet.load_checkpoint(save_unet(tmp_path / "latentsync_unet.pt"))
    assert report.source == "checkpoint"
    assert report.switched_off == report.ignored == ()
    loaded = unet.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in golden_state("unet").items())
    assert not any(value.requires_grad for value in unet.parameters())
    assert list(tmp_path.iterdir()) == [tmp_path / "latentsync_unet.pt"]


def test_version_1_0_loads_without_motion_modules(tmp_path: Path) -> None:
    unet = build(use_motion_module=False)
    unet.load_checkpoint(save_unet(tmp_path / "old.pt", version_1_0()))
    sample, audio = torch.zeros(1, 13, 2, 8, 8), torch.zeros(2, 50, 32)
    assert bool(unet(sample, 1, audio).sample.isfinite().all())


def test_version_1_0_where_motion_modules_are_needed(tmp_path: Path) -> None:
    path = save_unet(tmp_path / "old.pt", version_1_0())
    with pytest.raises(CheckpointMismatch, match=r"of LatentSync 1\.0: .*use_motion_module: false"):
        build().load_checkpoint(path)


def test_motion_modules_where_there_are_none(tmp_path: Path) -> None:
    path = save_unet(tmp_path / "new.pt")
    with pytest.raises(CheckpointMismatch, match=r"of LatentSync 1\.5 or later"):
        build(use_motion_module=False).load_checkpoint(path)


def test_the_file_of_another_network(tmp_path: Path) -> None:
    path = save_unet(tmp_path / "file.pt", golden_state("whisper"))
    with pytest.raises(CheckpointMismatch, match=r"missing .* unexpected .*not the file of"):
        build().load_checkpoint(path)


def test_one_missing_name_is_an_error(tmp_path: Path) -> None:
    state = dict(golden_state("unet"))
    del state["mid_block.resnets.0.conv1.weight"]
    path = save_unet(tmp_path / "file.pt", state)
    with pytest.raises(CheckpointMismatch, match=r"1 missing \(mid_block\.resnets\.0\.conv1"):
        build().load_checkpoint(path)


def test_a_file_that_does_not_fit_leaves_no_copy(tmp_path: Path) -> None:
    path = save_unet(tmp_path / "old.pt", version_1_0())
    with pytest.raises(CheckpointMismatch):
        build().load_checkpoint(path, dtype=torch.float16)
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_file_in_half_precision(tmp_path: Path) -> None:
    with pytest.raises(CheckpointUnusable, match="is missing"):
        build().load_checkpoint(tmp_path / "file.pt", dtype=torch.float16)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"in_channels": 9}, {"conv_in.weight"}),
        ({"out_channels": 8}, {"conv_out.weight", "conv_out.bias"}),
        ({"cross_attention_dim": 48}, {"attn2.to_k.weight", "attn2.to_v.weight"}),
        ({"motion_module_mid_block": True}, {"mid_block.motion_modules"}),
    ],
)
def test_other_ends_are_switched_off_when_that_is_allowed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, changes: dict[str, object], names: set[str]
) -> None:
    path = save_unet(tmp_path / "file.pt")
    unet = build(**changes)
    with pytest.raises(CheckpointMismatch):
        unet.load_checkpoint(path)
    with caplog.at_level(logging.WARNING):
        report = unet.load_checkpoint(path, strict=False)
    assert all(any(part in name for part in names) for name in report.switched_off)
    assert report.switched_off
    assert report.switched_off[0] in caplog.text
    config = unet.config
    sample = torch.randn(1, config.in_channels, 2, 8, 8)
    audio = torch.randn(2, 50, config.cross_attention_dim)
    assert bool(unet(sample, 1, audio).sample.isfinite().all())


def test_a_missing_motion_module_that_is_switched_off_changes_nothing(tmp_path: Path) -> None:
    lacking, plain = build(), build(use_motion_module=False)
    path = save_unet(tmp_path / "old.pt", version_1_0())
    lacking.load_checkpoint(path, strict=False)
    plain.load_checkpoint(path)
    sample, audio = torch.randn(1, 13, 3, 16, 16), torch.randn(3, 50, 32)
    assert torch.equal(lacking(sample, 1, audio).sample, plain(sample, 1, audio).sample)


def test_any_other_shape_is_never_allowed(tmp_path: Path) -> None:
    state = dict(golden_state("unet"))
    state["conv_norm_out.weight"] = torch.ones(3)
    path = save_unet(tmp_path / "file.pt", state)
    with pytest.raises(
        CheckpointMismatch, match=r"conv_norm_out\.weight \(3,\) instead of \(32,\)"
    ):
        build().load_checkpoint(path, strict=False)


def test_half_precision_makes_a_copy_and_uses_it(tmp_path: Path) -> None:
    path = save_unet(tmp_path / "latentsync_unet.pt")
    first, second = build(), build()
    assert first.load_checkpoint(path, dtype=torch.float16).source == "checkpoint"
    assert cache_path(path, torch.float16).name == "latentsync_unet.float16.safetensors"
    assert second.load_checkpoint(path, dtype=torch.float16).source == "cache"
    written, mapped = first.state_dict(), second.state_dict()
    for name, value in golden_state("unet").items():
        assert torch.equal(written[name], value.half())
        assert torch.equal(mapped[name], value.half())

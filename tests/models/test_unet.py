from __future__ import annotations

import pytest
import torch
from torch import nn

from latentsync.errors import EngineUnavailable
from latentsync.models.config import UNetConfig
from latentsync.models.norms import FoldedGroupNorm
from latentsync.models.unet import UNet3DConditionModel
from tests.models.golden import fingerprint, read_golden, shapes_of, tiny_unet, worst

PUBLISHED = "43d272b68103635c92f70e871075c33cf3ab462e60b4cb0debb17c38836b1331"  # 1.5 and 1.6
# At this size a picture is one pixel, and a norm of the motion module sees groups of two nearly
# equal values: the reference's float32 itself lies 5e-4 away from float64 there.
STAGE_TOLERANCE = {"mid_block": 2e-3}


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.inference_mode():
        yield


def test_names_and_shapes_are_those_of_the_published_checkpoints():
    with torch.device("meta"):
        shapes = shapes_of(UNet3DConditionModel.from_config(UNetConfig()))
    assert len(shapes) == 1246
    assert fingerprint(shapes) == PUBLISHED


def test_without_motion_modules_there_are_no_names_of_them():
    with torch.device("meta"):
        unet = UNet3DConditionModel.from_config({"use_motion_module": False})
        down_only = UNet3DConditionModel.from_config({"motion_module_decoder_only": True})
    assert not any("motion_modules" in name for name in shapes_of(unet))
    assert {name.split(".")[0] for name in shapes_of(down_only) if "motion_modules" in name} == {
        "up_blocks"
    }


@pytest.mark.parametrize("timestep", [951, 1])
def test_the_noise_predicted_is_the_references(timestep):
    golden = read_golden("unet_tiny")
    sample, audio = (torch.from_numpy(golden[name]) for name in ("sample", "audio"))
    output = tiny_unet()(sample, timestep, audio)
    assert worst(output.noise_pred, golden[f"out_t{timestep}"]) < 1e-4


def test_every_stage_gives_the_references_values():
    golden, seen, unet = read_golden("unet_tiny_stages"), {}, tiny_unet()
    names = [name.removeprefix("stage_") for name in golden if name.startswith("stage_")]
    modules = {name.replace(".", "_"): module for name, module in unet.named_modules()}

    def note(name: str):
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            seen[name] = output[0] if isinstance(output, tuple) else output

        return hook

    hooks = [modules[name].register_forward_hook(note(name)) for name in names]
    try:
        output = unet(
            torch.from_numpy(golden["sample"]),
            int(golden["timestep"]),
            torch.from_numpy(golden["audio"]),
        )
    finally:
        for hook in hooks:
            hook.remove()
    for name in names:
        folded = seen[name].unflatten(0, (2, 5)).transpose(1, 2)
        assert worst(folded, golden[f"stage_{name}"]) < STAGE_TOLERANCE.get(name, 2e-4), name
    assert worst(output.noise_pred, golden["out"]) < 2e-4


@pytest.mark.parametrize("num_frames", [1, 3])
def test_any_number_of_frames_and_batch_entries_stay_apart(num_frames):
    torch.manual_seed(0)
    sample, audio = torch.randn(2, 13, num_frames, 8, 8), torch.randn(2 * num_frames, 50, 32)
    both = tiny_unet()(sample, 7, audio).noise_pred
    second = tiny_unet()(sample[1:], 7, audio[num_frames:]).noise_pred
    assert torch.allclose(both[1:], second, atol=1e-5)


def test_features_of_the_same_step_give_the_same_noise():
    torch.manual_seed(0)
    sample, audio = torch.randn(1, 13, 2, 8, 8), torch.randn(2, 50, 32)
    whole = tiny_unet()(sample, 7, audio)
    again = tiny_unet()(sample, 7, audio, whole.features)
    assert torch.allclose(whole.noise_pred, again.noise_pred, atol=1e-6)


@pytest.mark.parametrize("num_frames", [1, 4])
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_the_pooled_norm_is_the_norm_over_five_dimensions(num_frames, offset):
    torch.manual_seed(1)
    norm = FoldedGroupNorm(4, 16, eps=1e-5)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    frames = torch.randn(2 * num_frames, 16, 6, 5) + offset
    wanted = nn.functional.group_norm(
        frames.unflatten(0, (2, -1)).transpose(1, 2).double(),
        4,
        norm.weight.double(),
        norm.bias.double(),
    )
    got = norm(frames, num_frames).unflatten(0, (2, -1)).transpose(1, 2)
    assert torch.allclose(got.double(), wanted, atol=1e-4)


def test_a_configuration_of_another_network_is_refused():
    with pytest.raises(EngineUnavailable, match="resnet_time_scale_shift"):
        UNet3DConditionModel.from_config({"resnet_time_scale_shift": "scale_shift"})

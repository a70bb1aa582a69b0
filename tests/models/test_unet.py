from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from latentsync.errors import EngineUnavailable, InternalError
from latentsync.models.config import UNetConfig
from latentsync.models.unet import UNet3DConditionModel
from tests.models.stand_ins import load_tiny_unet, manifest, tiny_unet_config, worst
from tests.weights_rule import make_weights

T = torch.from_numpy


def shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


def random_input(batch: int, frames: int, side: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    sample = torch.randn(batch, 13, frames, side, side, generator=generator, dtype=torch.float64)
    audio = torch.randn(batch * frames, 50, 32, generator=generator, dtype=torch.float64)
    return sample, audio


def test_names_and_shapes_are_those_of_the_published_checkpoint() -> None:
    assert len(manifest("unet_stage2")) == 1246
    assert shapes(UNet3DConditionModel.from_config(UNetConfig())) == manifest("unet_stage2")


def test_building_takes_no_memory_for_weights() -> None:
    unet = UNet3DConditionModel.from_config(UNetConfig())
    assert {value.device.type for value in unet.state_dict().values()} == {"meta"}


def test_without_motion_modules_the_names_are_those_of_version_1_0() -> None:
    config = UNetConfig(use_motion_module=False)
    wanted = {
        name: shape for name, shape in manifest("unet_stage2").items() if "motion" not in name
    }
    assert shapes(UNet3DConditionModel.from_config(config)) == wanted


def test_motion_modules_may_be_in_the_up_path_alone() -> None:
    config = UNetConfig(motion_module_decoder_only=True)
    names = shapes(UNet3DConditionModel.from_config(config))
    assert {name.split(".")[0] for name in names if "motion" in name} == {"up_blocks"}


def test_a_motion_module_in_the_middle_has_its_own_names() -> None:
    config = UNetConfig(motion_module_mid_block=True)
    names = shapes(UNet3DConditionModel.from_config(config))
    more = names.keys() - manifest("unet_stage2").keys()
    one = [name for name in names if name.startswith("up_blocks.0.motion_modules.0.")]
    assert len(more) == len(one) > 0
    assert all(name.startswith("mid_block.motion_modules.0.") for name in more)


def test_audio_prepared_once_gives_the_same(exact_unet: UNet3DConditionModel) -> None:
    sample, audio = random_input(2, 3)
    plain = exact_unet(sample, 501, audio).sample
    assert worst(exact_unet(sample, 501, exact_unet.encode_audio(audio)).sample, plain) == 0


def test_silence_that_is_skipped_gives_what_zeros_give(exact_unet: UNet3DConditionModel) -> None:
    sample, audio = random_input(2, 3)
    audio[:3] = 0
    skipped = exact_unet.encode_audio(audio[3:], num_silent=3)
    plain = exact_unet(sample, 501, audio).sample
    assert worst(exact_unet(sample, 501, skipped).sample, plain) < 1e-12


def test_a_batch_of_silence_alone_works(exact_unet: UNet3DConditionModel) -> None:
    sample, audio = random_input(1, 3)
    skipped = exact_unet.encode_audio(audio[:0], num_silent=3)
    plain = exact_unet(sample, 501, torch.zeros_like(audio)).sample
    assert worst(exact_unet(sample, 501, skipped).sample, plain) < 1e-12


def test_windows_of_a_batch_do_not_see_each_other(exact_unet: UNet3DConditionModel) -> None:
    sample, audio = random_input(3, 4)
    together = exact_unet(sample, 201, audio).sample
    for index in range(3):
        rows = slice(4 * index, 4 * index + 4)
        alone = exact_unet(sample[index : index + 1], 201, audio[rows]).sample
        assert worst(together[index : index + 1], alone) < 1e-12


def test_frames_of_a_window_do_see_each_other(exact_unet: UNet3DConditionModel) -> None:
    sample, audio = random_input(1, 4)
    whole = exact_unet(sample, 201, audio).sample
    part = exact_unet(sample[:, :, :3], 201, audio[:3]).sample
    assert worst(whole[:, :, :3], part) > 1e-3


def test_a_single_frame_is_a_window(exact_unet: UNet3DConditionModel) -> None:
    sample, audio = random_input(1, 1)
    output = exact_unet(sample, 1, audio).sample
    assert output.shape == (1, 4, 1, 8, 8)
    assert bool(output.isfinite().all())


@pytest.mark.parametrize(("height", "width"), [(10, 6), (7, 9)])
def test_sides_need_not_be_multiples_of_eight(
    unet: UNet3DConditionModel, height: int, width: int
) -> None:
    sample, audio = torch.randn(1, 13, 2, height, width), torch.randn(2, 50, 32)
    assert unet(sample, 1, audio).sample.shape == (1, 4, 2, height, width)


def test_the_cached_value_before_the_last_layer_repeats_the_pass(
    exact_unet: UNet3DConditionModel,
) -> None:
    sample, audio = random_input(2, 3)
    whole = exact_unet(sample, 501, audio)
    again = exact_unet(sample, 501, audio, cached=whole.features)
    assert worst(again.sample, whole.sample) == 0
    assert again.features is whole.features


def test_inputs_stay_as_they_are(unet: UNet3DConditionModel) -> None:
    sample, audio = (value.float() for value in random_input(2, 3))
    first = unet(sample, 501, audio)
    kept = [value.clone() for value in (sample, audio, first.features)]
    unet(sample, 451, audio, cached=first.features)
    for value, before in zip((sample, audio, first.features), kept, strict=True):
        assert torch.equal(value, before)


def test_every_convolution_is_given_channels_last(unet: UNet3DConditionModel) -> None:
    layouts: list[bool] = []

    def note(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        layouts.append(inputs[0].is_contiguous(memory_format=torch.channels_last))

    convolutions = [part for part in unet.modules() if type(part) is nn.Conv2d]
    hooks = [part.register_forward_pre_hook(note) for part in convolutions]
    sample, audio = random_input(2, 3, side=16)
    unet(sample.float(), 1, audio.float())
    for hook in hooks:
        hook.remove()
    assert len(layouts) > 30
    assert all(layouts)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near(
    tmp_path: Path, exact_unet: UNet3DConditionModel, dtype: torch.dtype
) -> None:
    sample, audio = random_input(1, 2, side=16)
    half = load_tiny_unet(tmp_path, dtype=dtype)(sample, 501, audio).sample
    exact = exact_unet(sample, 501, audio).sample
    assert half.dtype == dtype
    assert worst(half, exact) < 0.1 * float(exact.abs().max())


def test_more_frames_than_the_tables_have_is_an_error(unet: UNet3DConditionModel) -> None:
    with pytest.raises(InternalError, match="at most 24 frames at a time; 25"):
        unet(torch.zeros(1, 13, 25, 8, 8), 1, torch.zeros(25, 50, 32))


def test_audio_of_another_length_is_an_error(unet: UNet3DConditionModel) -> None:
    with pytest.raises(InternalError, match="sample has 4 frames and the audio 3"):
        unet(torch.zeros(2, 13, 2, 8, 8), 1, torch.zeros(3, 50, 32))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("act_fn", "relu"),
        ("flip_sin_to_cos", False),
        ("mid_block_type", "Other"),
        ("norm_num_groups", 7),
        ("attention_head_dim", 0),
        ("down_block_types", ["DownBlock3D"]),
        ("up_block_types", ["DownBlock3D"] * 4),
        ("block_out_channels", []),
        ("motion modules", [32, 64, 64, 48]),
        ("no_such_option", 1),
        ("in_channels", "many"),
    ],
)
def test_what_the_network_does_not_have_is_refused(name: str, value: object) -> None:
    option = "block_out_channels" if name == "motion modules" else name
    with pytest.raises(EngineUnavailable, match="configuration") as caught:
        UNet3DConditionModel.from_config(tiny_unet_config() | {option: value})
    # Without levels the lists of blocks are too long, and they are looked at first.
    assert (name if value != [] else "down_block_types") in caught.value.message


@pytest.mark.parametrize(
    "changes",
    [
        {"layers_per_block": 1},
        {"layers_per_block": 3, "attention_head_dim": 4, "cross_attention_dim": 24},
        {"motion_module_resolutions": [1, 4], "motion_module_mid_block": True},
        {
            "block_out_channels": [32, 64],
            "down_block_types": ["DownBlock3D", "CrossAttnDownBlock3D"],
            "up_block_types": ["CrossAttnUpBlock3D", "UpBlock3D"],
        },
        {
            "block_out_channels": [64],
            "down_block_types": ["CrossAttnDownBlock3D"],
            "up_block_types": ["CrossAttnUpBlock3D"],
        },
    ],
)
def test_other_sizes_of_the_network_run(changes: dict[str, object]) -> None:
    unet = UNet3DConditionModel.from_config(tiny_unet_config() | changes)
    weights = make_weights({name: tuple(v.shape) for name, v in unet.state_dict().items()})
    unet.load_state_dict({name: T(value) for name, value in weights.items()}, assign=True)
    sample, audio = torch.randn(1, 13, 2, 8, 8), torch.randn(2, 50, unet.config.cross_attention_dim)
    whole = unet(sample, 1, audio)
    assert bool(whole.sample.isfinite().all())
    assert torch.equal(unet(sample, 1, audio, cached=whole.features).sample, whole.sample)

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from latentsync.errors import Canceled, InvalidField, NumericalFailure
from latentsync.models.sampling import SamplingOptions, WindowInputs, build_scheduler, denoise
from latentsync.models.unet import UNet3DConditionModel
from latentsync.schema.fields import SchedulerName
from tests.models.stand_ins import load_tiny_unet, worst

T = torch.from_numpy
SHORT = SamplingOptions(num_inference_steps=3)


def random_inputs(batch: int = 1, frames: int = 2) -> WindowInputs:
    generator = torch.Generator().manual_seed(5)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return WindowInputs(
        noise=draw(1, 4, 1, 8, 8),
        mask=draw(batch, 1, frames, 8, 8),
        masked_latents=draw(batch, 4, frames, 8, 8),
        reference_latents=draw(batch, 4, frames, 8, 8),
        audio=draw(batch * frames, 50, 32),
    )


def test_the_last_step_ends_at_the_first_noise_level() -> None:
    scheduler = build_scheduler()
    assert scheduler.final_alpha_cumprod == scheduler.alphas_cumprod[0]
    assert scheduler.init_noise_sigma == 1


@pytest.mark.parametrize(("steps", "first"), [(12, 914), (1, 1), (50, 981), (7, 853)])
def test_timesteps_of_other_numbers_of_steps(steps: int, first: int) -> None:
    scheduler = build_scheduler()
    scheduler.set_timesteps(steps)
    spacing = 1000 // steps
    wanted = [spacing * (steps - 1 - index) + 1 for index in range(steps)]
    assert scheduler.timesteps.tolist() == wanted
    assert wanted[0] == first


def test_float32_stays_near_float64(
    unet: UNet3DConditionModel, exact_unet: UNet3DConditionModel
) -> None:
    inputs = random_inputs(frames=3)
    exact = denoise(exact_unet, inputs, SHORT)
    assert worst(denoise(unet, inputs, SHORT), exact) < 2e-3 * float(exact.abs().max())


@pytest.mark.parametrize(
    "changes", [{"num_inference_steps": 0}, {"num_inference_steps": 1001}, {"cache_interval": 0}]
)
def test_options_out_of_range_are_named(changes: dict[str, int]) -> None:
    (name,) = changes
    with pytest.raises(InvalidField, match=rf"^{name} is {changes[name]}; allowed: ") as caught:
        replace(SHORT, **changes)
    assert caught.value.field == name


@pytest.mark.parametrize("interval", [1, 3])
def test_windows_may_share_a_call(exact_unet: UNet3DConditionModel, interval: int) -> None:
    inputs = random_inputs(batch=3, frames=2)
    options = replace(SHORT, cache_interval=interval)
    together = denoise(exact_unet, inputs, options)
    for index in range(3):
        window = slice(index, index + 1)
        alone = WindowInputs(
            inputs.noise,
            inputs.mask[window],
            inputs.masked_latents[window],
            inputs.reference_latents[window],
            inputs.audio[2 * index : 2 * index + 2],
        )
        assert worst(together[window], denoise(exact_unet, alone, options)) < 1e-10


@pytest.mark.parametrize(("guidance_scale", "pictures"), [(1.0, 2), (0.5, 2), (1.01, 4), (3.0, 4)])
def test_guidance_doubles_the_batch_only_above_one(
    unet: UNet3DConditionModel, guidance_scale: float, pictures: int
) -> None:
    seen: list[int] = []
    hook = unet.conv_in.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    denoise(unet, random_inputs(), SamplingOptions(2, guidance_scale))
    hook.remove()
    assert seen == [pictures, pictures]


def test_the_cache_runs_the_whole_network_in_every_third_step(unet: UNet3DConditionModel) -> None:
    seen: list[int] = []
    hook = unet.mid_block.register_forward_hook(lambda *_: seen.append(1))
    denoise(unet, random_inputs(), SamplingOptions(20, cache_interval=3))
    hook.remove()
    assert len(seen) == 7


def test_the_caller_may_stop_between_steps(unet: UNet3DConditionModel) -> None:
    done: list[int] = []

    def stop_after_two(index: int, _latents: Tensor) -> None:
        done.append(index)
        if index == 1:
            raise Canceled("The run was canceled.")

    with pytest.raises(Canceled):
        denoise(unet, random_inputs(), SHORT, stop_after_two)
    assert done == [0, 1]


def test_values_that_are_not_numbers_are_an_error(tmp_path: Path) -> None:
    unet = load_tiny_unet(tmp_path)
    unet.conv_out.bias[0] = float("nan")
    with pytest.raises(NumericalFailure, match=r"not finite, computed in float32"):
        denoise(unet, random_inputs(), SHORT)


def test_the_given_tensors_stay_as_they_are(exact_unet: UNet3DConditionModel) -> None:
    inputs = random_inputs()
    kept = [value.clone() for value in vars(inputs).values()]
    denoise(exact_unet, inputs, SHORT)
    for value, before in zip(vars(inputs).values(), kept, strict=True):
        assert torch.equal(value, before)


def test_part_of_the_steps_may_go_without_guidance(unet: UNet3DConditionModel) -> None:
    seen: list[int] = []
    hook = unet.conv_in.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    denoise(unet, random_inputs(), SamplingOptions(5, guidance_interval=(0.2, 0.6)))
    hook.remove()
    assert seen == [2, 4, 4, 2, 2]


@pytest.mark.parametrize("interval", [(0.0, 0.5), (0.5, 1.0), (0.25, 0.75)])
def test_the_cache_and_partial_guidance_go_together(
    exact_unet: UNet3DConditionModel, interval: tuple[float, float]
) -> None:
    options = SamplingOptions(6, guidance_interval=interval)
    exact = denoise(exact_unet, random_inputs(), options)
    cached = denoise(exact_unet, random_inputs(), replace(options, cache_interval=2))
    assert 0 < worst(cached, exact) < 0.5 * float(exact.abs().max())


def test_an_interval_of_all_steps_is_full_guidance(exact_unet: UNet3DConditionModel) -> None:
    full = denoise(exact_unet, random_inputs(), SHORT)
    assert torch.equal(
        denoise(exact_unet, random_inputs(), replace(SHORT, guidance_interval=(0, 1))), full
    )


def error_on_gaussian_data(scheduler_name: SchedulerName, spread: float = 0.3) -> float:
    """Sample where the best prediction is known: data are normal numbers of this spread.

    Every sample then moves along a known curve, in proportion to the spread of the noisy data.
    """
    scheduler = build_scheduler(scheduler_name)
    scheduler.set_timesteps(10)
    alphas = scheduler.alphas_cumprod.double()

    def noisy_spread(alpha: Tensor) -> Tensor:
        return (alpha * spread**2 + 1 - alpha).sqrt()

    sample = first = torch.tensor([1.0], dtype=torch.float64)
    for timestep in scheduler.timesteps.tolist():
        alpha = alphas[timestep]
        noise_pred = (1 - alpha).sqrt() * sample / noisy_spread(alpha) ** 2
        sample = scheduler.step(noise_pred, timestep, sample).prev_sample
    wanted = first * spread / noisy_spread(alphas[scheduler.timesteps[0]])
    return float(((sample - wanted) / wanted).abs())


def test_the_other_solver_is_nearer_with_few_steps() -> None:
    assert error_on_gaussian_data("dpm-solver++") < 0.5 * error_on_gaussian_data("ddim")


@pytest.mark.parametrize("steps", [1, 2, 12])
def test_the_other_solver_takes_any_number_of_steps(unet: UNet3DConditionModel, steps: int) -> None:
    options = SamplingOptions(steps, 1.0, scheduler="dpm-solver++")
    assert torch.isfinite(denoise(unet, random_inputs(), options)).all()

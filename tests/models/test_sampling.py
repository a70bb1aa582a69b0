from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from latentsync.errors import Canceled, NotANumber
from latentsync.models.sampling import Conditions, build_scheduler, denoise
from tests.models.golden import read_golden, tiny_unet, worst

TOLERANCE = 2e-3  # values reach 55


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def golden():
    return read_golden("ddim_tiny")


@pytest.fixture(scope="module")
def conditions(golden):
    parts = (torch.from_numpy(golden[name]) for name in ("mask", "masked_latents", "ref_latents"))
    return Conditions(*parts, torch.from_numpy(golden["audio"]))


@pytest.fixture(scope="module")
def noise(golden, conditions):
    return torch.from_numpy(golden["noise"]).expand(-1, -1, conditions.mask.shape[2], -1, -1)


def test_the_schedule_is_the_references(golden):
    scheduler = build_scheduler()
    scheduler.set_timesteps(int(golden["steps"]))
    assert scheduler.timesteps.tolist() == golden["timesteps"].tolist()
    assert np.array_equal(scheduler.alphas_cumprod.numpy(), golden["alphas_cumprod"])


@pytest.mark.parametrize(("interval", "name"), [(1, "latents"), (3, "latents_deepcache")])
def test_guided_latents_are_the_references_at_every_step(golden, conditions, noise, interval, name):
    # In float64, so that the one step whose norms enlarge rounding errors fifty times shows how
    # exact the code is, not which processor runs it.
    exact = Conditions(*(part.double() for part in vars(conditions).values()))
    steps = {}
    denoise(
        copy.deepcopy(tiny_unet()).double(),
        noise.double(),
        exact,
        num_inference_steps=int(golden["steps"]),
        guidance_scale=float(golden["guidance"]),
        cache_interval=interval,
        on_step=lambda step, latents: steps.update({step: latents}),
    )
    assert len(steps) == 20
    for index, step in enumerate((0, 9, 19)):
        assert worst(steps[step], golden[name][index]) < TOLERANCE


def test_guidance_of_one_asks_once_and_gives_the_references_latents(golden, conditions, noise):
    latents = denoise(
        tiny_unet(),
        noise,
        conditions,
        num_inference_steps=int(golden["steps"]),
        guidance_scale=1.0,
    )
    assert worst(latents, golden["latents_no_cfg_final"]) < TOLERANCE


def test_a_listener_may_stop_between_steps(conditions, noise):
    def stop(step: int, latents: torch.Tensor) -> None:
        raise Canceled("stop")

    with pytest.raises(Canceled):
        denoise(
            tiny_unet(), noise, conditions, num_inference_steps=2, guidance_scale=1.0, on_step=stop
        )


def test_values_that_are_no_numbers_are_an_error(conditions, noise):
    with pytest.raises(NotANumber):
        denoise(
            tiny_unet(),
            noise * float("nan"),
            conditions,
            num_inference_steps=1,
            guidance_scale=1.0,
        )

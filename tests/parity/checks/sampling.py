"""ddim_tiny.npz: from noise to latents, step by step.

A recording may end before the last step; then the sampler is stopped there, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import cache, partial

import torch
from torch import Tensor

from latentsync.models.sampling import SamplingOptions, WindowInputs, build_scheduler, denoise
from tests.parity.networks import Networks
from tests.parity.output import Output
from tests.parity.precisions import Way, pick_in_each
from tests.parity.recorded import NUMBERS, Array, RecordedFile
from tests.parity.tolerance import EXACT, Tolerance

FEATURE_CACHE_INTERVAL = 3  # of the recorded runs with a cache

_LATENTS = Tolerance(2e-3)  # values reach 55
_INPUTS = ("noise", "mask", "masked_latents", "ref_latents", "audio")
_UNGUIDED = 1.0


def check(recorded: RecordedFile, networks: Networks) -> Iterator[Output]:
    yield Output("timesteps", EXACT, partial(_timesteps, recorded), "int")
    yield Output(
        "alphas_cumprod", Tolerance(1e-6), lambda: build_scheduler().alphas_cumprod.numpy()
    )
    for match in recorded.numbered(r"latents(_no_cfg)?(_deepcache)?(_final)?"):
        num_recorded = None if match[3] else len(recorded.read(match[0], "float32"))
        guided, cached, final = not match[1], bool(match[2]), bool(match[3])
        compute = cache(partial(_sample, recorded, networks, guided, cached, num_recorded))
        yield Output(match[0], _LATENTS, pick_in_each(compute, _last if final else torch.stack))


class _Enough(Exception):
    """As many steps are done as were recorded."""


def _timesteps(recorded: RecordedFile) -> Array:
    scheduler = build_scheduler()
    scheduler.set_timesteps(recorded.read_number("steps", "int"))
    return scheduler.timesteps.numpy()


def _sample(
    recorded: RecordedFile,
    networks: Networks,
    guided: bool,
    cached: bool,
    num_recorded: int | None,
    way: Way,
) -> list[Tensor]:
    """Return the latents after every step, or after the first ``num_recorded`` of them."""
    options = SamplingOptions(
        num_inference_steps=recorded.read_number("steps", "int"),
        guidance_scale=recorded.read_number("guidance", *NUMBERS) if guided else _UNGUIDED,
        cache_interval=FEATURE_CACHE_INTERVAL if cached else 1,
    )
    read = (torch.from_numpy(recorded.read(name, "float32")) for name in _INPUTS)
    inputs = WindowInputs(*map(way.blur, read))
    steps: list[Tensor] = []

    def keep(_step: int, latents: Tensor) -> None:
        steps.append(latents)
        if len(steps) == num_recorded:
            raise _Enough

    with suppress(_Enough):
        steps[-1] = denoise(networks.unet(way.dtype), inputs, options, keep)
    return steps


def _last(steps: list[Tensor]) -> Tensor:
    return steps[-1]

"""unet_*.npz: single passes of the denoising network, whole and layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import torch
from torch import Tensor

from latentsync.models.unet import UNet3DConditionModel
from tests.parity.checks.unet_layers import LayerRecorder
from tests.parity.networks import Networks
from tests.parity.output import Output
from tests.parity.precisions import Way, in_float32, pick_in_each
from tests.parity.recorded import RecordedFile, UnfitArray
from tests.parity.tolerance import EXACT, Tolerance

_SINGLE, _STAGES, _FULL = Tolerance(1e-4), Tolerance(2e-4), Tolerance(2e-4)
Load = Callable[[torch.dtype], UNet3DConditionModel]


@dataclass(frozen=True, eq=False)
class _Pass:
    """What one pass gave, and what its layers did."""

    out: Tensor
    layers: LayerRecorder


def check_single(recorded: RecordedFile, networks: Networks) -> Iterator[Output]:
    """Passes of the reduced network at several timesteps."""
    steps = [int(match[1]) for match in recorded.numbered(r"out_t(\d+)")]
    yield Output("timesteps", EXACT, lambda: np.array(steps), "int")
    for step in steps:
        compute = cache(partial(_run, recorded, networks.unet, step))
        yield Output(f"out_t{step}", _SINGLE, pick_in_each(compute, _out))


def check_stages(recorded: RecordedFile, networks: Networks) -> Iterator[Output]:
    """One pass of the reduced network with what its layers return."""
    compute = cache(partial(_run, recorded, networks.unet, None))
    yield Output("out", _STAGES, pick_in_each(compute, _out))
    for match in recorded.numbered(r"stage_(.+)"):
        pick = partial(_stage, recorded, match[1])
        yield Output(match[0], _STAGES, pick_in_each(compute, pick))


def check_full(recorded: RecordedFile, networks: Networks) -> Iterator[Output]:
    """One pass of the network at full size; of its layers mean, deviation and largest value."""
    load = networks.full_unet
    compute = cache(lambda: _run(recorded, lambda _: load(), None, Way(torch.float32)))
    yield Output("out", _FULL, in_float32(lambda: compute().out))
    for match in recorded.numbered(r"stats_(.+)"):
        make = partial(_statistics, compute, match[1])
        yield Output(match[0], _FULL, in_float32(make))


def _out(done: _Pass) -> Tensor:
    return done.out


def _stage(recorded: RecordedFile, layer: str, done: _Pass) -> Tensor:
    return done.layers.value(layer, recorded.read(f"stage_{layer}", "float32").shape)


def _statistics(compute: Callable[[], _Pass], layer: str) -> Tensor:
    values = compute().layers.value(layer)
    return torch.stack([values.mean(), values.std(), values.abs().max()])


def _run(recorded: RecordedFile, load: Load, step: int | None, way: Way) -> _Pass:
    """Run the network on the file's sample.

    Args:
        recorded: holds the inputs.
        load: returns the network.
        step: timestep of the pass; that of the file if None.
        way: how it is run.
    """
    sample = torch.from_numpy(recorded.read("sample", "float32"))
    audio = torch.from_numpy(recorded.read("audio", "float32"))
    step = recorded.read_number("timestep", "int") if step is None else step
    if sample.ndim != 5:
        raise UnfitArray(f"sample is {tuple(sample.shape)}, not five-dimensional")
    unet = load(way.dtype)
    with LayerRecorder(unet, batch=len(sample), num_frames=sample.shape[2]) as layers:
        return _Pass(unet(way.blur(sample), step, audio).sample, layers)

from __future__ import annotations

import torch

from latentsync.pipelines.lipsync.windows import SeededNoise

CPU = torch.device("cpu")


def test_numbers_come_in_the_order_in_which_latentsync_draws_them() -> None:
    noise = SeededNoise(1247, 8, CPU, torch.float32)
    drawn = [noise.initial, *noise.posterior(0, 16), *noise.posterior(16, 20)]
    torch.manual_seed(1247)
    shapes = [(1, 4, 1, 8, 8), (16, 4, 8, 8), (16, 4, 8, 8), (4, 4, 8, 8), (4, 4, 8, 8)]
    for value, shape in zip(drawn, shapes, strict=True):
        assert torch.equal(value, torch.randn(shape))


def test_the_beginning_stays_the_same_however_often_it_is_asked_for() -> None:
    noise = SeededNoise(1, 4, CPU, torch.float32)
    first = noise.initial
    noise.posterior(0, 2)
    assert torch.equal(noise.initial, first)


def test_other_seeds_and_the_largest_give_other_numbers() -> None:
    values = [SeededNoise(seed, 4, CPU, torch.float32).initial for seed in (0, 1, 2**63 - 1)]
    assert not any(torch.equal(values[0], other) for other in values[1:])


def test_nothing_else_draws_from_or_into_it() -> None:
    state = torch.get_rng_state()
    noise = SeededNoise(7, 4, CPU, torch.float64)
    assert noise.initial.dtype == torch.float64
    assert torch.equal(torch.get_rng_state(), state)

from __future__ import annotations

import math

import torch

from latentsync.models.motion_module import position_table
from latentsync.models.unet import sinusoidal_embedding
from tests.models.stand_ins import worst
from tests.weights_rule import make_array


def test_the_cosines_of_a_timestep_come_first() -> None:
    made = sinusoidal_embedding(951, 320, torch.device("cpu"))
    angles = [951 * math.exp(-math.log(10000) * i / 160) for i in range(160)]
    wanted = [[*map(math.cos, angles), *map(math.sin, angles)]]
    assert made.dtype == torch.float32
    assert worst(made, wanted) < 2e-4  # frequencies are float32: 951 times their last bit


def test_a_timestep_may_be_a_tensor() -> None:
    number = sinusoidal_embedding(17, 32, torch.device("cpu"))
    assert torch.equal(sinusoidal_embedding(torch.tensor(17), 32, torch.device("cpu")), number)
    assert torch.equal(sinusoidal_embedding(torch.tensor([17]), 32, torch.device("cpu")), number)


def test_the_position_table_is_that_of_the_checkpoints() -> None:
    assert worst(position_table(64, 24), make_array("x.pe", (1, 24, 64))) < 1e-7

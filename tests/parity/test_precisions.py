"""What counts as reproduced where float32 itself is not sure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.parity.output import Line, Output, judge
from tests.parity.precisions import Way, in_each_precision
from tests.parity.recorded import Array, RecordedFile
from tests.parity.tolerance import Tolerance

_ENLARGED = 1e4  # what the network below does to roundings


def ill_conditioned(way: Way) -> Tensor:
    """A difference of nearly equal values, enlarged."""
    values = way.blur(torch.linspace(1, 2, 20)).to(way.dtype) * 0.1 * 0.7
    return (values * 3 - 0.21 * torch.linspace(1, 2, 20).to(way.dtype)) * _ENLARGED


def well_conditioned(way: Way) -> Tensor:
    return way.blur(torch.linspace(1, 2, 20)).to(way.dtype) * 3


def compare(tmp_path: Path, recorded: Array, compute: object) -> Line:
    np.savez(tmp_path / "file.npz", values=recorded)
    file = RecordedFile(tmp_path / "file.npz", "file.npz")
    return judge(Output("values", Tolerance(1e-5), in_each_precision(compute)), file)


def test_the_same_number_in_float32_is_reproduced(tmp_path: Path) -> None:
    line = compare(tmp_path, well_conditioned(Way(torch.float32)).numpy(), well_conditioned)
    assert (line.verdict, line.remark) == ("ok", "float32")


def test_another_order_of_rounding_is_reproduced_and_said(tmp_path: Path) -> None:
    recorded = ill_conditioned(Way(torch.float32, jitter=99)).numpy()
    line = compare(tmp_path, recorded, ill_conditioned)
    assert (line.verdict, line.remark) == ("ok", "float64, within the recording's own rounding")


@pytest.mark.parametrize("compute", [ill_conditioned, well_conditioned])
def test_more_than_rounding_fails(tmp_path: Path, compute: object) -> None:
    recorded = ill_conditioned(Way(torch.float32, jitter=99)).numpy()
    recorded[7] += 0.1
    assert compare(tmp_path, recorded, compute).failed


def test_rounding_allows_a_sound_computation_nothing_more(tmp_path: Path) -> None:
    recorded = well_conditioned(Way(torch.float32)).numpy()
    recorded[7] += 2e-5
    line = compare(tmp_path, recorded, well_conditioned)
    assert line.failed
    assert "float64: differs by 2.0e-05" in line.remark

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.parity.recorded import NUMBERS, RecordedFile, UnfitArray


@pytest.mark.parametrize("value", [3, 1.5, np.float32(1.5)])
def test_a_setting_may_be_a_whole_number(tmp_path: Path, value: float) -> None:
    np.savez(tmp_path / "file.npz", guidance=value)
    recorded = RecordedFile(tmp_path / "file.npz", "file.npz")
    assert recorded.read_number("guidance", *NUMBERS) == value


def test_several_numbers_are_no_setting(tmp_path: Path) -> None:
    np.savez(tmp_path / "file.npz", guidance=[1.0, 2.0])
    recorded = RecordedFile(tmp_path / "file.npz", "file.npz")
    with pytest.raises(UnfitArray, match="not one number"):
        recorded.read_number("guidance", *NUMBERS)

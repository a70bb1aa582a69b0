"""What counts as alike where the last digits are chaotic."""

from __future__ import annotations

import numpy as np
import pytest

from tests.parity.tolerance import Bound, Likeness, Tolerance

_PICTURE = np.arange(10_000, dtype=np.uint8).reshape(100, 100)


def changed(pixels: int, by: int) -> np.ndarray:
    picture = _PICTURE.astype(np.int16)
    picture.flat[:pixels] += by
    return picture


@pytest.mark.parametrize(
    ("pixels", "by", "ok"),
    [(0, 0, True), (10_000, 1, False), (500, 1, True), (50, 2, True), (51, 2, False)],
)
def test_pictures_are_alike_by_their_error_and_by_the_pixels_beyond_a_level(
    pixels: int, by: int, ok: bool
) -> None:
    assert Likeness(psnr_db=50, beyond=0.005).measure(changed(pixels, by), _PICTURE).ok == ok


def test_what_does_not_count_is_no_part_of_the_error_but_must_not_differ() -> None:
    counted = np.zeros(_PICTURE.shape, np.bool_)
    counted[:50] = True
    likeness = Likeness(psnr_db=50, beyond=0.005, counts=lambda: counted)
    elsewhere = changed(10_000, 1)
    elsewhere[:50] = _PICTURE[:50]
    assert likeness.measure(elsewhere, _PICTURE).ok
    elsewhere[50] += 1
    assert not likeness.measure(elsewhere, _PICTURE).ok


def test_values_that_are_not_numbers_are_never_alike() -> None:
    spoilt = _PICTURE.astype(np.float64)
    spoilt[0, 0] = np.nan
    assert not Likeness(psnr_db=1, beyond=1.0).measure(spoilt, _PICTURE).ok
    assert not Bound(lambda: 1e9).measure(spoilt, _PICTURE).ok


def test_a_bound_is_computed_and_shown() -> None:
    values = np.array([1.0, 2.0])
    measure = Bound(lambda: 0.5).measure(values, values + 0.25)
    assert (measure.ok, measure.worst) == (True, "2.5e-01 of 5.0e-01")
    assert not Bound(lambda: 0.2).measure(values, values + 0.25).ok


def test_rounding_never_explains_a_hundredfold() -> None:
    values = np.array([1.0])
    assert not Tolerance(1e-3).measure(values, values + 0.05).hopeless
    assert Tolerance(1e-3).measure(values, values + 0.2).hopeless

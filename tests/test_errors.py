"""The error tree: codes, statuses, and messages that are safe to send."""

from __future__ import annotations

import pytest

from latentsync import errors
from latentsync.errors import LatentSyncError, shorten


def all_errors() -> list[type[LatentSyncError]]:
    def below(kind: type[LatentSyncError]) -> list[type[LatentSyncError]]:
        return [found for sub in kind.__subclasses__() for found in (sub, *below(sub))]

    return [kind for kind in below(LatentSyncError) if kind.__module__ == errors.__name__]


def test_every_code_is_its_own() -> None:
    codes = [kind.code for kind in all_errors()]
    assert len(set(codes)) == len(codes)
    assert all(code == code.upper() for code in codes)


def test_every_status_is_an_error_status() -> None:
    assert all(400 <= kind.status <= 599 for kind in all_errors())


def test_every_error_is_in_the_drawing_of_the_tree() -> None:
    assert errors.__doc__ is not None
    for kind in all_errors():
        assert kind.__name__ in errors.__doc__


def test_the_body_of_an_error() -> None:
    error = errors.NoFace("No face.", field="video_url")
    assert error.to_dict() == {
        "status_code": 422,
        "code": "NO_FACE",
        "message": "No face.",
        "field": "video_url",
    }
    assert str(error) == "No face."


def nested(depth: int) -> list[object]:
    value: list[object] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        "x" * 10_000_000,
        list(range(100_000)),
        nested(900),
        {"a" * 1000: "b" * 1000},
        "\ud800",
        10**4000,
    ],
)
def test_an_excerpt_is_short_and_can_be_sent_whatever_the_value(value: object) -> None:
    text = shorten(value)
    assert 0 < len(text) <= 80
    text.encode()


def test_short_values_are_shown_whole() -> None:
    assert shorten("abc") == "'abc'"
    assert shorten(0.5) == "0.5"
    assert shorten({"frame": 1, "point": [1, 2]}) == "{'frame': 1, 'point': [1, 2]}"

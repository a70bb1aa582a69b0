"""What the page reads from cookies."""

from __future__ import annotations

from datetime import UTC, timedelta

import pytest
from starlette.requests import Request

from latentsync.ui.session import zone_of


def browser(cookie: str) -> Request:
    return Request({"type": "http", "headers": [(b"cookie", cookie.encode())]})


def test_the_browsers_clock_is_taken_from_its_cookie() -> None:
    assert zone_of(browser("latentsync_zone=-330")).utcoffset(None) == timedelta(minutes=-330)


@pytest.mark.parametrize(
    "cookie", ["", "latentsync_zone=", "latentsync_zone=1e3", "latentsync_zone=99999", "a=1"]
)
def test_without_a_valid_cookie_the_zone_is_utc(cookie: str) -> None:
    assert zone_of(browser(cookie)) == UTC

"""Where a client goes with its token."""

from __future__ import annotations

import pytest

from latentsync.client._transport import parse_address

PATH = "/v1/predictions/7/output"


@pytest.mark.parametrize(
    ("base", "reported", "expected"),
    [
        ("http://a:8000", PATH, f"http://a:8000{PATH}"),
        ("http://a:8000/lips", PATH, f"http://a:8000/lips{PATH}"),
        ("http://a:8000", f"http://a:8000{PATH}", f"http://a:8000{PATH}"),
        ("https://a/lips/predict", f"https://A:443/lips{PATH}", f"https://A:443/lips{PATH}"),
        ("http://a/lips", f"http://a{PATH}", "own"),  # a proxy has taken the prefix away
        ("http://a/lips", f"http://a/lipstick{PATH}", "own"),
        ("http://a:8000", None, "own"),
        ("http://a:8000", f"http://b:8000{PATH}", "own"),
        ("http://a:8000", f"http://a:8001{PATH}", "own"),
        ("https://a", f"http://a{PATH}", "own"),
        ("http://a", f"http://me@a{PATH}", "own"),
        ("http://a", f"//b{PATH}", "own"),
        ("http://a", "http://[", "own"),
        ("http://a", "v1/output", "own"),
    ],
)
def test_an_address_that_was_reported_is_taken_only_if_it_is_the_servers_own(
    base: str, reported: str | None, expected: str
) -> None:
    assert parse_address(base).own_url(reported, default="own") == expected

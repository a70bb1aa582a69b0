"""Variables that look like settings and are none, and the key of a caller."""

from __future__ import annotations

import pytest

from latentsync.settings import Settings, caller_key, describe_unknown_variables, variable_of


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("LATENTSYNC_MAX_FSP", "LATENTSYNC_MAX_FPS"),
        ("LATENTSYNC_KEY", "LATENTSYNC_API_KEY"),
        ("LATENTSYNC_APIKEYS", "LATENTSYNC_API_KEY"),
        ("latentsync_enigne", "LATENTSYNC_ENGINE"),
        ("LATENTSYNC_UR", "LATENTSYNC_URL"),
    ],
)
def test_a_misspelt_setting_is_reported_with_the_nearest_name(name: str, near: str) -> None:
    (said,) = describe_unknown_variables({name: "hunter2"})
    assert said == f"{name} is not a setting of latentsync and has no effect; did you mean {near}?"


def test_what_is_like_no_setting_is_reported_without_a_suggestion() -> None:
    (said,) = describe_unknown_variables({"LATENTSYNC_PORT": "9000"})
    assert said == "LATENTSYNC_PORT is not a setting of latentsync and has no effect."


def test_what_is_read_is_known() -> None:
    settings = dict.fromkeys(map(variable_of, Settings.model_fields), "x")
    names = ("API_KEYS", "URL", "TOKEN", "REFERENCE", "FUZZ_CASES")
    others = {f"LATENTSYNC_{name}": "x" for name in names}
    foreign = {"latentsync_engine": "draft", "LATENT_X": "x", "CEREBRIUM_API_KEY": "x"}
    assert describe_unknown_variables({**settings, **others, **foreign}) == []


def test_what_kubernetes_says_of_services_is_no_mistake() -> None:
    """deploy/kubernetes.yaml has a service of the name latentsync."""
    environment = {
        "LATENTSYNC_SERVICE_HOST": "10.0.0.1",
        "LATENTSYNC_SERVICE_PORT": "80",
        "LATENTSYNC_SERVICE_PORT_HTTP": "80",
        "LATENTSYNC_PORT": "tcp://10.0.0.1:80",
        "LATENTSYNC_PORT_80_TCP": "tcp://10.0.0.1:80",
        "LATENTSYNC_PORT_80_TCP_PROTO": "tcp",
        "LATENTSYNC_PORT_80_TCP_PORT": "80",
        "LATENTSYNC_PORT_80_TCP_ADDR": "10.0.0.1",
        "LATENTSYNC_API_SERVICE_HOST": "10.0.0.2",
        "LATENTSYNC_API_PORT": "udp://10.0.0.2:80",
    }
    assert describe_unknown_variables(environment) == []


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, ("", "")),
        ({"LATENTSYNC_API_KEYS": "of-a-server"}, ("", "")),
        ({"LATENTSYNC_API_KEY": "a"}, ("a", "LATENTSYNC_API_KEY")),
        ({"LATENTSYNC_API_KEY": " , a ,b"}, ("a", "LATENTSYNC_API_KEY")),
        ({"LATENTSYNC_TOKEN": "t,u"}, ("t,u", "LATENTSYNC_TOKEN")),
        ({"CEREBRIUM_API_KEY": "c"}, ("c", "CEREBRIUM_API_KEY")),
        ({"LATENTSYNC_API_KEY": " ", "CEREBRIUM_API_KEY": "c"}, ("c", "CEREBRIUM_API_KEY")),
        (
            {"CEREBRIUM_API_KEY": "c", "LATENTSYNC_TOKEN": "t", "LATENTSYNC_API_KEY": "a"},
            ("a", "LATENTSYNC_API_KEY"),
        ),
    ],
)
def test_the_key_of_a_caller(environment: dict[str, str], found: tuple[str, str]) -> None:
    assert caller_key(environment) == found

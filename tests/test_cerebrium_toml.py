"""cerebrium.toml, key by key: the platform ignores unknown keys and resets missing ones."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from typing import Any

import pytest

from latentsync.settings import Settings
from tests.server.live import REPOSITORY

CONFIG = tomllib.loads((REPOSITORY / "cerebrium.toml").read_text())["cerebrium"]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]

COMPUTE_LIMITS = {  # per GPU: CPU cores, memory in GB
    "AMPERE_A10": (11, 44),
    "ADA_L40": (11, 92),
    "AMPERE_A100_40GB": (22, 284),
    "AMPERE_A100_80GB": (22, 284),
    "HOPPER_H100": (24, 256),
    "HOPPER_H200": (24, 256),
}
A10_REGIONS = {"us-east-1", "eu-north-1"}

Rule = Callable[[Any], bool]


def whole(low: int, high: int) -> Rule:
    return lambda value: type(value) is int and low <= value <= high


def number(low: float, high: float) -> Rule:
    return lambda value: type(value) in (int, float) and low <= value <= high


def one_of(*allowed: object) -> Rule:
    return lambda value: value in allowed and type(value) is type(allowed[0])


def texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


# Every key with a documented value, and what it may hold.
RULES: dict[str, dict[str, Rule]] = {
    "deployment": {
        "name": lambda value: re.fullmatch(r"[a-z0-9][a-z0-9-]{0,31}", value) is not None,
        "python_version": one_of("3.10", "3.11", "3.12"),
        "disable_auth": one_of(False),
        "include": texts,
        "exclude": texts,
        "shell_commands": texts,
        "pre_build_commands": texts,
        "docker_base_image_url": lambda value: re.fullmatch(r"[\w./-]+:[\w.-]+", value) is not None,
        "use_uv": one_of(False, True),
        "deployment_initialization_timeout": whole(60, 830),
    },
    "hardware": {
        "compute": one_of(*COMPUTE_LIMITS),
        "gpu_count": whole(1, 8),
        "cpu": number(0.5, 24),
        "memory": number(1, 284),
        "provider": one_of("aws", "crusoe", "nebius"),
        "region": lambda value: isinstance(value, str),
    },
    "scaling": {
        "min_replicas": whole(0, 100),
        "max_replicas": whole(1, 100),
        "replica_concurrency": whole(1, 100),
        "cooldown": whole(0, 3600),
        "response_grace_period": whole(16, 43_200),
        "scaling_metric": one_of("concurrency_utilization"),
        "scaling_target": whole(1, 100),
        "scaling_buffer": whole(0, 100),
        "evaluation_interval_seconds": whole(1, 300),
        "roll_out_duration_seconds": whole(0, 600),
    },
    "dependencies": {"paths": one_of({"pip": "requirements.txt"})},
    "experimental": {"checkpointing": one_of(False, True)},
}


def test_no_section_is_missing_or_unknown() -> None:
    assert set(CONFIG) == set(RULES)


@pytest.mark.parametrize("section", RULES)
def test_no_key_is_missing_or_unknown(section: str) -> None:
    assert set(CONFIG[section]) == set(RULES[section])


@pytest.mark.parametrize(
    ("section", "key"), [(section, key) for section, keys in RULES.items() for key in keys]
)
def test_every_value_is_allowed(section: str, key: str) -> None:
    value = CONFIG[section][key]
    assert RULES[section][key](value), f"{section}.{key} = {value!r}"


def test_the_values_that_this_app_was_promised() -> None:
    deployment, hardware, scaling = (
        CONFIG[section] for section in ("deployment", "hardware", "scaling")
    )
    assert (deployment["name"], deployment["python_version"]) == ("latentsync", "3.11")
    assert deployment["disable_auth"] is False
    assert hardware == {
        "compute": "AMPERE_A10",
        "gpu_count": 1,
        "cpu": 8.0,
        "memory": 32.0,
        "provider": "aws",
        "region": "us-east-1",
    }
    assert (scaling["min_replicas"], scaling["replica_concurrency"]) == (0, 1)
    assert scaling["min_replicas"] <= scaling["max_replicas"]


def test_the_hardware_exists_where_it_is_asked_for() -> None:
    hardware = CONFIG["hardware"]
    most_cpu, most_memory = COMPUTE_LIMITS[hardware["compute"]]
    assert hardware["cpu"] <= most_cpu * hardware["gpu_count"]
    assert hardware["memory"] <= most_memory * hardware["gpu_count"]
    if hardware["compute"] == "AMPERE_A10":
        assert hardware["region"] in A10_REGIONS


def test_a_run_ends_before_the_platform_kills_it() -> None:
    assert Settings().deadline_s < CONFIG["scaling"]["response_grace_period"]


def test_the_requirements_are_those_of_the_package_and_its_networks() -> None:
    lines = (REPOSITORY / "requirements.txt").read_text().splitlines()
    required = [line for line in lines if line and not line.startswith("#")]
    assert required == PROJECT["dependencies"] + PROJECT["optional-dependencies"]["models"]


def test_the_python_version_is_one_that_the_package_supports() -> None:
    assert PROJECT["requires-python"] == ">=3.11,<3.14"
    assert CONFIG["deployment"]["python_version"] in ("3.11", "3.12", "3.13")


def test_what_the_app_needs_is_deployed_and_tests_are_not() -> None:
    excluded = CONFIG["deployment"]["exclude"]
    assert CONFIG["deployment"]["include"] == ["*"]
    assert "tests/*" in excluded
    for needed in ("main.py", "requirements.txt", "latentsync", "assets", "configs"):
        assert (REPOSITORY / needed).exists()
        assert not any(pattern.startswith(needed + "/*") for pattern in excluded)

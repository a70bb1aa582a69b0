"""The examples for many machines name things that exist, in the package and in each other.

Whether what the Compose file says makes videos, ``test_compose`` tells.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from latentsync.cli.app import commands
from latentsync.settings import Settings, variable_of

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"


def pods() -> list[dict[str, Any]]:
    """Return the specification of every kind of pod."""
    documents = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    return [template(one)["spec"] for one in documents if template(one)]


def template(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["spec"].get("template", {})
    return found


def containers() -> list[dict[str, Any]]:
    """Every container of ours in both examples: its words of command and its environment."""
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    found = [
        {"args": service["command"], "env": list(service["environment"])}
        for name, service in services.items()
        if name in ("api", "worker")
    ]
    for pod in pods():
        for container in pod["containers"]:
            env = [variable["name"] for variable in container.get("env", [])]
            found.append({"args": container["args"], "env": env})
    return found


@pytest.mark.parametrize("container", containers())
def test_commands_and_settings_exist(container: dict[str, Any]) -> None:
    program, command, *options = container["args"]
    assert program == "latentsync"
    said = CliRunner().invoke(commands, [command, "--help"], terminal_width=200)
    assert said.exit_code == 0
    for option in options:
        assert not option.startswith("--") or option in said.output
    for name in container["env"]:
        if name.startswith("LATENTSYNC_"):
            assert name in map(variable_of, Settings.model_fields)


def test_the_image_copies_what_there_is_and_what_is_not_ignored() -> None:
    copied = [
        name
        for line in (DEPLOY / "Dockerfile").read_text().splitlines()
        if line.startswith("COPY")
        for name in line.split()[1:-1]
    ]
    assert all((ROOT / name).exists() for name in copied)
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert {f"!{name}" for name in copied} == {line for line in ignored if line.startswith("!")}


def test_the_image_installs_extras_that_there_are() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    assert '".[${EXTRAS}]"' in dockerfile
    named = re.findall(r"EXTRAS[=:-]+([\w,]+)", dockerfile + (DEPLOY / "compose.yaml").read_text())
    assert len(named) == 4  # the default, the page's, and Compose's for both
    for extras in named:
        assert set(extras.split(",")) <= set(project["optional-dependencies"])


def test_the_users_of_the_image_and_of_the_cluster_are_one() -> None:
    made = re.search(r"useradd .*--uid (\d+)", (DEPLOY / "Dockerfile").read_text())
    assert made is not None
    for pod in pods():
        assert pod["securityContext"]["runAsUser"] == int(made[1])


def test_the_parts_of_the_cluster_find_each_other() -> None:
    documents = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
    services = {
        one["metadata"]["name"]: one["spec"] for one in documents if one["kind"] == "Service"
    }
    labels = [one["spec"]["template"]["metadata"]["labels"] for one in documents if template(one)]
    for service in services.values():
        assert service["selector"] in labels
    for one in documents:
        if template(one):
            assert one["spec"]["selector"]["matchLabels"] in labels
        if one["kind"] == "StatefulSet":
            assert services[one["spec"]["serviceName"]]["clusterIP"] == "None"


def test_the_probes_ask_what_the_server_answers() -> None:
    probes = [
        probe["httpGet"]
        for pod in pods()
        for container in pod["containers"]
        for name, probe in container.items()
        if name.endswith("Probe")
    ]
    assert probes == [{"path": "/health", "port": 8000}] * 3
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    assert "127.0.0.1:8000/health" in services["api"]["healthcheck"]["test"][-1]


def test_a_server_has_longer_to_stop_than_it_takes() -> None:
    longest_s = Settings.model_fields["shutdown_grace_s"].default + 10  # of the last answers
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    assert int(services["api"]["stop_grace_period"].removesuffix("s")) > longest_s
    assert pods()[0]["terminationGracePeriodSeconds"] > longest_s

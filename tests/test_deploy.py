"""The examples for many machines name things that exist; whether they run, only a cluster tells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from latentsync.cli import commands
from latentsync.settings import Settings

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"


def containers() -> list[dict[str, Any]]:
    """Every container of ours in both examples: its words of command and its environment."""
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    found = [
        {"args": service["command"], "env": list(service["environment"])}
        for name, service in services.items()
        if name in ("api", "worker")
    ]
    for document in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()):
        for container in document["spec"].get("template", {}).get("spec", {}).get("containers", []):
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
            assert name.removeprefix("LATENTSYNC_").lower() in Settings.model_fields


def test_the_image_copies_what_there_is() -> None:
    for line in (DEPLOY / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY"):
            assert all((ROOT / name).exists() for name in line.split()[1:-1])

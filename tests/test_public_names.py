"""Names that other people's code imports, and commands that their scripts call: these must last."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

from tests.server.live import REPOSITORY

PUBLIC = {
    "latentsync": [
        "AsyncClient",
        "Client",
        "Job",
        "JobEvent",
        "Prediction",
        "Segment",
        "__version__",
    ],
    "latentsync.cli.app": ["main"],
    "latentsync.client": [
        "AsyncClient",
        "Client",
        "Job",
        "JobError",
        "JobEvent",
        "JobPage",
        "JobStatus",
        "Media",
        "ModalClient",
        "Options",
        "Patience",
        "Prediction",
        "RetryPolicy",
        "Segment",
        "WebhookDelivery",
    ],
    "latentsync.errors": ["LatentSyncError"],
    "latentsync.models.unet": ["UNet3DConditionModel"],
    "latentsync.pipelines.lipsync_pipeline": ["LipsyncPipeline"],
}
VERBS = {
    "cancel",
    "delete",
    "download",
    "list",
    "log",
    "predict",
    "run",
    "serve",
    "status",
    "submit",
    "watch",
    "weights",
    "worker",
}


@pytest.mark.parametrize("module", PUBLIC)
def test_a_module_keeps_its_public_names(module: str) -> None:
    loaded = import_module(module)
    assert [name for name in PUBLIC[module] if not hasattr(loaded, name)] == []


@pytest.mark.parametrize("module", ["latentsync", "latentsync.client"])
def test_nothing_else_is_exported(module: str) -> None:
    assert sorted(import_module(module).__all__) == sorted(PUBLIC[module])


def test_the_command_line_keeps_its_verbs() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "latentsync", "--help"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    shown = done.stdout.partition("Commands:")[2].splitlines()
    assert {line.split()[0] for line in shown if line.startswith("  ") and line[2] != " "} == VERBS

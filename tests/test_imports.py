"""The light parts stay light: what a fresh interpreter has loaded after an import."""

from __future__ import annotations

import subprocess
import sys
from functools import cache

import pytest

from tests.server.live import REPOSITORY

SERVING = {"fastapi", "starlette", "uvicorn", "modal", "dbos", "sqlalchemy", "fsspec"}
HEAVY = {"torch", "cv2", "onnxruntime", "av", "pocketsphinx", *SERVING}

SERVER = "import latentsync.server.app, latentsync.server.serve, latentsync.cli.app"


@cache
def loaded_by(statement: str) -> frozenset[str]:
    code = f"{statement}\nimport sys; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    return frozenset(done.stdout.split())


def test_importing_the_package_loads_nothing_else() -> None:
    assert not loaded_by("import latentsync") & (HEAVY | {"httpx", "pydantic", "numpy"})


@pytest.mark.parametrize(
    "statement",
    [
        "from latentsync import AsyncClient, Client, Job, JobEvent, Prediction, Segment",
        "import latentsync.client",
        "import latentsync.schema.predict, latentsync.errors, latentsync.settings",
        "import latentsync.cli.app, latentsync.cli.jobs",
    ],
)
def test_client_schema_and_command_line_stay_light(statement: str) -> None:
    assert not loaded_by(statement) & (HEAVY | {"numpy"})


def test_the_schema_needs_no_http() -> None:
    assert "httpx" not in loaded_by("import latentsync.schema.predict, latentsync.cli.app")


def test_the_server_needs_no_torch_and_without_the_page_no_gradio() -> None:
    assert not loaded_by(SERVER) & {"torch", "gradio", "pandas"}


def test_an_unknown_name_is_an_attribute_error() -> None:
    import latentsync

    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = latentsync.Nothing  # type: ignore[attr-defined]

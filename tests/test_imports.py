"""The light parts stay light: what a fresh interpreter has loaded after an import."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.server.live import REPOSITORY

SERVING = {"fastapi", "starlette", "uvicorn", "modal", "dbos", "sqlalchemy", "fsspec"}
HEAVY = {"torch", "cv2", "onnxruntime", "av", "pocketsphinx", *SERVING}


def loaded_by(statement: str) -> set[str]:
    code = f"{statement}\nimport sys; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_importing_the_package_loads_nothing_else() -> None:
    assert loaded_by("import latentsync") & (HEAVY | {"httpx", "pydantic", "numpy"}) == set()


@pytest.mark.parametrize(
    "statement",
    [
        "from latentsync import AsyncClient, Client, Job, JobEvent, Prediction, Segment",
        "import latentsync.client",
        "import latentsync.schema, latentsync.errors, latentsync.settings",
        "import latentsync.cli, latentsync.jobs_commands",
    ],
)
def test_client_schema_and_command_line_stay_light(statement: str) -> None:
    assert loaded_by(statement) & (HEAVY | {"numpy"}) == set()


def test_the_schema_needs_no_http() -> None:
    assert "httpx" not in loaded_by("import latentsync.schema, latentsync.cli")


def test_the_server_needs_no_torch() -> None:
    assert "torch" not in loaded_by("import latentsync.server.app, latentsync.server.serve")


def test_the_server_without_the_page_needs_no_gradio() -> None:
    statement = "import latentsync.server.app, latentsync.server.serve, latentsync.cli"
    assert not loaded_by(statement) & {"gradio", "pandas"}


def test_an_unknown_name_is_an_attribute_error() -> None:
    import latentsync

    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = latentsync.Nothing  # type: ignore[attr-defined]

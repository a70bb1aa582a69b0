"""What holds for all tests that call a server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

_DRAWN_CALLS = "test_openapi_fuzz.py"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave the drawn calls alone where they are not run: loading what draws takes a second."""
    is_left_out = "not processes" in config.getoption("markexpr")
    return True if is_left_out and collection_path.name == _DRAWN_CALLS else None


@pytest.fixture(scope="session", autouse=True)
def _patient_callers() -> Iterator[None]:
    """Let callers wait for answers as long as a busy machine takes; by itself httpx waits 5 s."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(httpx._config.DEFAULT_TIMEOUT_CONFIG, "read", 60.0)
        yield

"""What holds for all tests that call a server."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest


@pytest.fixture(scope="session", autouse=True)
def _patient_callers() -> Iterator[None]:
    """Let callers wait for answers as long as a busy machine takes; by itself httpx waits 5 s."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(httpx._config.DEFAULT_TIMEOUT_CONFIG, "read", 60.0)
        yield

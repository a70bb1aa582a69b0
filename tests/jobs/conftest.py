from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from latentsync.settings import Settings
from tests.jobs.receiver import SECRET, Receiver, running_receiver


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with running_receiver() as server:
        yield server


@pytest.fixture
def signing(tmp_path: Path) -> Settings:
    """Settings of a worker that may call the receiver of these tests."""
    return Settings(
        data_dir=tmp_path / "data",
        webhook_secret=SECRET,
        webhook_timeout_s=20.0,
        webhook_retry_delays_s=(10.0, 100.0),
        allow_private_addresses=True,
    )

"""One service of jobs for all tests of the client."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.client.service import Service, job_service


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A real server with a real worker."""
    with job_service(tmp_path_factory.mktemp("service")) as lent:
        yield lent

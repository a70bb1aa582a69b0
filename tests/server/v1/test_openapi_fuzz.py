"""Calls of the native API drawn from the OpenAPI document, most of them wrong: none is a defect.

``LATENTSYNC_FUZZ_CASES`` sets how many cases are sent in all (default 400).
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import GenerationMode
from schemathesis.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from latentsync.server.app import build_app
from tests.server.live import AUTH, serving, settings_for

pytestmark = pytest.mark.processes

CASES = int(os.environ.get("LATENTSYNC_FUZZ_CASES", "400"))
MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
OPERATIONS = [
    ("/v1/predictions", "POST"),
    ("/v1/predictions", "GET"),
    ("/v1/predictions/batch", "POST"),
    ("/v1/predictions/{job_id}", "PUT"),
    ("/v1/predictions/{job_id}", "GET"),
    ("/v1/predictions/{job_id}/cancel", "POST"),
    ("/v1/predictions/{job_id}/events", "GET"),
    ("/v1/predictions/{job_id}/output", "GET"),
    ("/v1/uploads", "POST"),
    ("/v1/models", "GET"),
]
# Nothing of a call without parameters can be wrong.
CALLS = [
    (*one, mode)
    for one in OPERATIONS
    for mode in MODES
    if one[0] != "/v1/models" or mode is MODES[0]
]
CASES_EACH = math.ceil(CASES / (len(OPERATIONS) * len(MODES)))
CHECKS = [
    status_code_conformance,  # the document names every status that is answered
    response_schema_conformance,
    content_type_conformance,
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, Any]]]:
    """Address and document of a server that keeps jobs without a worker."""
    folder: Path = tmp_path_factory.mktemp("server")
    app = build_app(settings_for(folder, max_jobs_per_key=20, body_timeout_s=5.0))
    with serving(app) as url:
        yield url, app.openapi()


def test_every_route_of_the_native_api_is_drawn_from(served: tuple[str, dict[str, Any]]) -> None:
    _url, document = served
    native = {
        (path, method.upper())
        for path, methods in document["paths"].items()
        if path.startswith("/v1/")
        for method in methods
    }
    assert native == set(OPERATIONS)


@pytest.mark.parametrize(("path", "method", "mode"), CALLS)
def test_no_call_drawn_from_the_document_is_a_defect(
    served: tuple[str, dict[str, Any]], path: str, method: str, mode: GenerationMode
) -> None:
    url, document = served
    operation = schemathesis.openapi.from_dict(document)[path][method]
    seen: Counter[int] = Counter()

    @seed(20)  # the same cases on every machine
    @settings(
        max_examples=CASES_EACH,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def send(case: schemathesis.Case) -> None:
        response = case.call(base_url=url, headers=AUTH, timeout=60)
        seen[response.status_code] += 1
        assert response.status_code != 500, response.text
        case.validate_response(response, checks=CHECKS)

    send()
    assert seen.total() > 0

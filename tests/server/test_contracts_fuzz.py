"""Calls of the two queue contracts drawn from the OpenAPI document: none is a defect.

``LATENTSYNC_FUZZ_CASES`` sets how many cases are sent in all (default 280).
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator
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

CASES = int(os.environ.get("LATENTSYNC_FUZZ_CASES", "280"))
RIGHT, WRONG = GenerationMode.POSITIVE, GenerationMode.NEGATIVE
CALLS = [
    ("/sync", "POST", RIGHT),
    ("/sync", "POST", WRONG),
    ("/task/{task_id}", "GET", RIGHT),
    ("/queue", "GET", RIGHT),
    ("/outputs/{task_id}/{name}", "GET", RIGHT),
    ("/lipsync/submit", "POST", RIGHT),
    ("/lipsync/submit", "POST", WRONG),
    ("/lipsync/status", "POST", RIGHT),
    ("/lipsync/status", "POST", WRONG),
    ("/lipsync/cancel", "POST", RIGHT),
    ("/lipsync/cancel", "POST", WRONG),
    ("/static/results/{request_id}/{name}", "GET", RIGHT),
]
CASES_EACH = math.ceil(CASES / len(CALLS))
CHECKS = [
    status_code_conformance,  # the document names every status that is answered
    response_schema_conformance,
    content_type_conformance,
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, Any]]]:
    """Address and document of a server without a worker."""
    app = build_app(settings_for(tmp_path_factory.mktemp("server"), max_jobs_per_key=20))
    with serving(app) as url:
        yield url, app.openapi()


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
        response = case.call(base_url=url, headers=AUTH)
        seen[response.status_code] += 1
        assert response.status_code != 500, response.text
        case.validate_response(response, checks=CHECKS)

    send()
    assert seen.total() > 0
    if mode is WRONG:
        assert 200 not in seen

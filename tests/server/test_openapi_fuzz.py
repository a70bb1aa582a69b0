"""Requests drawn from the OpenAPI document, most of them wrong: none may be a defect (500).

``LATENTSYNC_FUZZ_CASES`` sets how many cases are sent in all (default 1000).
"""

from __future__ import annotations

import math
import os
from collections import Counter
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import GenerationMode
from schemathesis.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.server.engines import SquareEngine
from tests.server.live import AUTH, app_with, serving, settings_for

pytestmark = pytest.mark.processes

CASES = int(os.environ.get("LATENTSYNC_FUZZ_CASES", "1000"))
PATHS = ("/predict", "/v4/{project}/{app}/predict")
MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
CASES_EACH = math.ceil(CASES / (len(PATHS) * len(MODES)))
CHECKS = [
    status_code_conformance,  # the document names every status that is answered
    response_schema_conformance,
    content_type_conformance,
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: str(mode.value))
def test_no_request_drawn_from_the_document_is_a_defect(
    tmp_path: Path, path: str, mode: GenerationMode
) -> None:
    app = app_with(SquareEngine(), settings_for(tmp_path, fetch_timeout_s=0.2))
    operation = schemathesis.openapi.from_dict(app.openapi())[path]["POST"]
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
        response = case.call(base_url=url, headers=AUTH, timeout=60)  # torch may have to load
        seen[response.status_code] += 1
        assert response.status_code != 500, response.text
        case.validate_response(response, checks=CHECKS)

    with serving(app) as url:
        send()
    assert seen.total() >= CASES_EACH
    assert seen[422] > 0, "no case came as far as the validation of fields"

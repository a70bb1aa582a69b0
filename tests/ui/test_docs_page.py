"""The page `/docs` in a real browser: ``make browser``."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.demo_media import ASSETS
from tests.server.live import KEY
from tests.ui.service import page_server

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]

_TIMEOUT_MS = 120_000
_PUT = "#operations-predictions-put_prediction"
_OUTPUT = "#operations-predictions-prediction_output"
_CREATE = "#operations-predictions-create_prediction"


@pytest.fixture(scope="module")
def docs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The page, opened, with the key given where it asks for one."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    with (
        page_server(tmp_path_factory.mktemp("docs")) as url,
        playwright.sync_playwright() as driver,
    ):
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 1100})
        page.set_default_timeout(_TIMEOUT_MS)
        page.goto(f"{url}/docs")
        page.click(".btn.authorize")
        page.fill("input[aria-label=auth-bearer-value]", KEY)
        page.click(".auth-btn-wrapper .authorize")
        page.click(".auth-btn-wrapper .btn-done")
        yield page
        browser.close()


def execute(page: Any, operation: str) -> Any:
    """Press Execute of an opened operation; return the element that shows the response."""
    page.click(f"{operation} .btn.execute")
    page.wait_for_selector(f"{operation} .live-responses-table .response")
    return page.locator(f"{operation} .live-responses-table .response")


def status(answer: Any) -> str:
    return str(answer.locator(".response-col_status").inner_text()).split()[0]


def test_the_first_steps_make_a_video(docs: Any) -> None:
    docs.click(f"{_PUT} .opblock-summary")
    assert status(execute(docs, _PUT)) == "200"
    docs.click(f"{_OUTPUT} .opblock-summary")
    answer = execute(docs, _OUTPUT)
    assert status(answer) == "200"
    assert "Download file" in answer.inner_text()


def test_the_form_takes_two_files_and_nothing_else(docs: Any) -> None:
    docs.click(f"{_CREATE} .opblock-summary")
    kinds = f"{_CREATE} .opblock-section-request-body .body-param-content-type select"
    docs.select_option(kinds, "multipart/form-data")
    for name, file in (("video", "example_video.mp4"), ("audio", "example_audio.ogg")):
        row = f"{_CREATE} tr[data-property-name={name}]"
        docs.set_input_files(f"{row} input[type=file]", ASSETS / file)
    answer = execute(docs, _CREATE)
    assert status(answer) == "200", answer.inner_text()
    shown = answer.locator(".response-col_description code").first.inner_text()
    assert json.loads(shown)["status"] == "succeeded"

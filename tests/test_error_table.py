"""The page of errors and warnings is what the code has."""

from __future__ import annotations

import runpy
from pathlib import Path

from latentsync.errors import InternalError, NoFace, ServerError, error_from_code, every_error
from latentsync.schema.responses import WarningCode
from tests.test_errors import all_errors

DOCS = Path(__file__).resolve().parents[1] / "docs"


def test_the_page_is_up_to_date() -> None:
    maker = runpy.run_path(str(DOCS / "make_errors.py"))
    assert (DOCS / "errors.md").read_text("utf-8") == maker["render"]()


def test_every_error_that_a_server_answers_has_a_row() -> None:
    page = (DOCS / "errors.md").read_text("utf-8")
    kinds = {kind for kind in all_errors() if kind is not ServerError}
    assert set(every_error().values()) == kinds
    for kind in kinds:
        assert f"| `{kind.code}` | {kind.status} |" in page


def test_every_warning_has_a_row() -> None:
    described = runpy.run_path(str(DOCS / "make_errors.py"))["WARNINGS"]
    assert set(described) == set(WarningCode), "describe the code in docs/make_errors.py"
    page = (DOCS / "errors.md").read_text("utf-8")
    for code in WarningCode:
        assert f"| `{code}` |" in page


def test_a_recorded_error_is_recalled_by_its_code() -> None:
    error = error_from_code("NO_FACE", "No face.", "video_url")
    assert isinstance(error, NoFace)
    assert (error.message, error.field) == ("No face.", "video_url")
    assert isinstance(error_from_code("OF_A_LATER_VERSION", "Something."), InternalError)

"""What the page says."""

from __future__ import annotations

from typing import get_args

import pytest

from latentsync.client import Job, JobError
from latentsync.errors import MissingField, ServerError, every_error
from latentsync.fields import EngineName, SyncMode
from latentsync.monitor import Progress
from latentsync.ui import words


def job(**changes: object) -> Job:
    return Job.model_validate({"id": "a", "status": "processing", **changes})


@pytest.mark.parametrize(("position", "said"), [(0, "you are next"), (3, "3 ahead of you")])
def test_the_place_in_line_is_told(position: int, said: str) -> None:
    assert said in words.describe(job(status="queued", queue_position=position))


def test_progress_names_stage_and_pictures_and_fills_the_bar() -> None:
    said = words.describe(job(progress=Progress("generate", 0.5, 80, 161)))
    assert "making the lips, picture 80 of 161" in said
    assert 'value="50"' in said


def test_a_stage_of_another_engine_is_told_by_its_name() -> None:
    assert "warm up" in words.describe(job(progress=Progress("warm_up", 0.1)))


def test_a_failure_is_told_with_advice_and_code() -> None:
    said = words.describe(
        job(status="failed", error=JobError(code="NO_FACE", message="No usable face."))
    )
    assert 'role="alert"' in said
    assert "No usable face. Choose a video in which a face looks" in said
    assert "NO_FACE" in said


def test_what_a_server_says_is_text_and_never_markup() -> None:
    error = ServerError("<img src=x onerror=alert(1)>", server_status=500, server_code="<b>")
    said = words.alert_of(error)
    assert "<img" not in said
    assert "<b>" not in said


def test_errors_of_the_page_itself_are_told_by_their_own_code() -> None:
    assert "FIELD_MISSING" in words.alert_of(MissingField("Choose a video.", field="video"))


def test_the_choices_are_those_of_the_schema() -> None:
    named = {value for _, value in words.ENGINES} - {words.SERVERS_ENGINE}
    assert named == set(get_args(EngineName)) - {"auto"}
    assert {value for _, value in words.SYNC_MODES} == {mode.value for mode in SyncMode}


def test_advice_is_for_errors_that_there_are() -> None:
    assert set(words.ADVICE) <= set(every_error())

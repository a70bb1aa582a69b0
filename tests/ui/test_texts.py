"""The texts of the page."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from datetime import timedelta, timezone

import pytest

from latentsync.client import Job, JobError
from latentsync.errors import MissingField, ServerError, every_error
from latentsync.jobs.engine_availability import Availability
from latentsync.monitor import Progress
from latentsync.schema.engines import ENGINES, EngineSurvey, Obstacle
from latentsync.schema.fields import SyncMode
from latentsync.schema.responses import PredictDetails, RunWarning
from latentsync.ui import texts


def job(**changes: object) -> Job:
    return Job.model_validate({"id": "a", "status": "processing", **changes})


@pytest.mark.parametrize(("position", "said"), [(0, "you are next"), (3, "3 ahead of you")])
def test_the_queue_position_is_shown(position: int, said: str) -> None:
    assert said in texts.describe(job(status="queued", queue_position=position))


def test_progress_names_stage_and_frames_and_fills_the_bar() -> None:
    said = texts.describe(job(progress=Progress("generate", 0.5, 80, 161)))
    assert "generating the frames, frame 80 of 161" in said
    assert 'value="50"' in said


def test_a_stage_of_another_engine_is_shown_by_its_name() -> None:
    assert "warm up" in texts.describe(job(progress=Progress("warm_up", 0.1)))


MADE = PredictDetails(
    guidance_scale=1.5,
    inference_steps=20,
    seed=7,
    engine="latentsync-1.6",
    model_version="1.6",
    sync_mode=SyncMode.BOUNCE,
    frames=161,
    frames_without_face=3,
    faces_found=1,
    fps=25.0,
    width=512,
    height=288,
    duration_s=6.44,
    seconds={"fetch": 0.5, "generate.denoise": 30.25, "generate.cool_down": 1.0, "generate": 40.0},
)


def test_a_finished_video_is_summarized_in_one_sentence() -> None:
    said = texts.describe(job(status="succeeded", details=MADE))
    assert "Ready. 6.4 s, 512 x 288, made with LatentSync 1.6." in said
    assert "ls-warnings" not in said


def test_the_warnings_of_a_finished_video_are_listed_as_text() -> None:
    messages = ["video holds <2> streams; the first was used.", "3 frames show no face."]
    warnings = [RunWarning(code="OF_A_LATER_VERSION", message=one) for one in messages]
    made = MADE.model_copy(update={"warnings": warnings})
    said = ElementTree.fromstring(texts.describe(job(status="succeeded", details=made)))
    assert [one.text for one in said.iter("li")] == messages
    assert said.get("role") == "status"  # so that they are announced together with the state
    assert [one.text for one in said.iter("p")][1:] == ["Please note:"]


def test_the_log_has_the_messages_and_the_time_of_each_step() -> None:
    page = ElementTree.fromstring(f"<div>{texts.run_log(['probe: <b>', 'done'], MADE)}</div>")
    assert [line.text for line in page.iter("li")] == ["probe: <b>", "done"]
    rows = [tuple(cell.text for cell in row) for row in page.iter("tr")]
    assert ("Engine", "LatentSync 1.6, version 1.6") in rows
    assert rows[-5:] == [
        ("Processing time", "40.5 s"),
        ("loading the video and the speech", "0.5 s"),
        ("generating the frames", "40.0 s"),
        ("denoising", "30.2 s"),
        ("cool down", "1.0 s"),
    ]


def test_a_job_that_has_not_begun_has_no_messages() -> None:
    assert "No messages yet" in texts.run_log([])


def test_the_list_shows_the_time_of_the_browsers_clock() -> None:
    there = timezone(timedelta(hours=5, minutes=30))
    said = texts.label(job(created_at="2026-01-31T20:00:05Z", details=MADE), there)
    assert said == "01 Feb 01:30:05: processing, 6.4 s"


def test_faces_are_counted() -> None:
    assert texts.found_faces(1).startswith("1 face found")
    assert texts.found_faces(2).startswith("2 faces found")
    assert "Try another position" in texts.found_faces(0)


def test_a_failure_is_shown_with_advice_and_code() -> None:
    said = texts.describe(
        job(status="failed", error=JobError(code="NO_FACE", message="No usable face."))
    )
    assert 'role="alert"' in said
    assert "No usable face. Choose a video in which a face looks" in said
    assert "NO_FACE" in said


def test_what_a_server_says_is_text_and_never_markup() -> None:
    error = ServerError("<img src=x onerror=alert(1)>", server_status=500, server_code="<b>")
    said = texts.alert_of(error)
    assert "<img" not in said
    assert "<b>" not in said


def test_errors_of_the_page_itself_are_shown_with_their_own_code() -> None:
    assert "FIELD_MISSING" in texts.alert_of(MissingField("Choose a video.", field="video"))


def able(*names: str, default: str = "auto", auto: str | None = "draft") -> EngineSurvey:
    """Return the survey of a worker that can run these engines."""
    lacking = Obstacle("ENGINE_UNAVAILABLE", "It needs torch.")
    found = {name: None if name in names else lacking for name in ENGINES}
    return EngineSurvey(default, auto, {"auto": found.get(auto or ""), **found})


@pytest.mark.parametrize(
    ("workers", "choices"),
    [
        (
            [able("draft")],
            {"server": "Automatic: on this server Draft", "draft": "Draft: warps the mouth"},
        ),
        ([able("draft", default="latentsync-1.6")], {"draft": "Draft: warps the mouth"}),
        (
            [able("draft"), able(*ENGINES, auto="latentsync-1.6")],
            {
                "server": "Automatic: on this server Draft or LatentSync 1.6",
                "latentsync-1.6": "LatentSync 1.6: generated lips, sharpest",
                "latentsync-1.5": "LatentSync 1.5: generated lips",
                "draft": "Draft: warps the mouth",
            },
        ),
        ([able()], {}),
    ],
)
def test_only_what_can_run_is_offered_and_automatic_says_what_it_is(
    workers: list[EngineSurvey], choices: dict[str, str]
) -> None:
    offered = texts.engine_choices(Availability(len(workers), tuple(workers)))
    assert [value for _, value in offered] == list(choices)
    for label, value in offered:
        assert label.startswith(choices[value])


def test_while_no_worker_is_alive_every_engine_is_offered() -> None:
    offered = texts.engine_choices(Availability(0, ()))
    assert offered[0] == (texts.AUTOMATIC, texts.SERVERS_ENGINE)
    assert {value for _, value in offered[1:]} == set(ENGINES)


def test_the_choices_are_those_of_the_schema() -> None:
    assert {value for _, value in texts.SYNC_MODES} == {mode.value for mode in SyncMode}


def test_advice_is_for_existing_errors() -> None:
    assert set(texts.ADVICE) <= set(every_error())

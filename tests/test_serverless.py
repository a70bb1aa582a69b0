"""The decorator of serverless entry points."""

from __future__ import annotations

import inspect
import logging
import uuid
from typing import Any

import pytest

from latentsync.errors import InvalidField, LatentSyncError, NoFace
from latentsync.serverless import serverless_handler


def door_of(run: Any, **options: Any) -> Any:
    @serverless_handler(run, **options)
    def predict(size: int = 1, run_id: str | None = None) -> int:
        """Doc."""
        if size < 0:
            raise InvalidField(f"size is {size}.", field="size")
        return size

    return predict


def test_the_platform_sees_the_function_as_it_was_written() -> None:
    predict = door_of(lambda size: size)
    assert predict.__name__ == "predict"
    assert predict.__doc__ == "Doc."
    parameters = inspect.signature(predict).parameters
    assert list(parameters) == ["size", "run_id"]
    assert parameters["size"].default == 1


def test_what_the_function_returns_is_run_and_its_answer_returned() -> None:
    predict = door_of(lambda size: {"twice": 2 * size})
    assert predict(size=4) == {"twice": 8}
    assert predict(3, run_id="r") == {"twice": 6}
    assert predict() == {"twice": 2}


def test_an_own_error_becomes_the_platforms_object() -> None:
    assert door_of(lambda size: size)(size=-1, run_id="r-1") == {
        "status_code": 422,
        "code": "FIELD_INVALID",
        "message": "size is -1.",
        "field": "size",
        "run_id": "r-1",
    }


def test_an_error_of_the_run_is_answered_the_same_way() -> None:
    def run(size: int) -> None:
        raise NoFace("No usable face in any of the 9 frames.", field="video_url")

    answer = door_of(run)(run_id="r-2")
    assert (answer["status_code"], answer["code"], answer["run_id"]) == (422, "NO_FACE", "r-2")


def test_a_defect_is_logged_with_its_cause_and_answered_with_a_reference_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def run(size: int) -> None:
        raise RuntimeError("secret at /srv/private")

    answer = door_of(run)(run_id="r-3")
    assert (answer["status_code"], answer["code"]) == (500, "INTERNAL_ERROR")
    assert "r-3" in answer["message"]
    assert "secret" not in str(answer)
    logged = [record for record in caplog.records if record.exc_info]
    assert "r-3" in logged[0].getMessage()
    assert "secret at /srv/private" in str(logged[0].exc_info)


@pytest.mark.parametrize("name", ["sise", "Size", "run-id", "x" * 500, "\ud800"])
def test_an_unknown_json_key_is_an_unknown_field(name: str) -> None:
    answer = door_of(lambda size: size)(**{name: 1})
    assert (answer["status_code"], answer["code"]) == (422, "FIELD_UNKNOWN")
    assert "Allowed: size." in answer["message"]
    str(answer).encode()  # can be sent
    assert len(answer["message"]) < 200


def test_without_a_given_reference_one_is_drawn() -> None:
    answer = door_of(lambda size: size)(size=-1)
    assert uuid.UUID(answer["run_id"])


def test_every_call_is_logged_with_code_and_time(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "latentsync.serverless")
    door_of(lambda size: size)(run_id="r-4")
    door_of(lambda size: size)(size=-1, run_id="r-5")
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0].startswith("predict r-4: OK in ")
    assert lines[1].startswith("predict r-5: FIELD_INVALID in ")


def test_another_platform_has_its_own_error_format() -> None:
    def one_line(error: LatentSyncError, run_id: str) -> dict[str, str]:
        return {"error": f"{error.code}: {error.message} ({run_id})"}

    @serverless_handler(lambda request: request, failure=one_line)
    def handler(job: dict[str, Any]) -> Any:
        if "input" not in job:
            raise InvalidField("The job has no input.", field="input")
        return job["input"]

    assert handler({"input": 5}) == 5
    assert handler({})["error"].startswith("FIELD_INVALID: The job has no input. (")


def test_methods_can_be_handlers_too() -> None:
    class Service:
        @serverless_handler(lambda size: size + 1)
        def predict(self, size: int = 1) -> int:
            return size

    assert Service().predict(size=2) == 3
    assert Service().predict(sise=2)["code"] == "FIELD_UNKNOWN"

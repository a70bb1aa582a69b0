"""The envelope is written slice by slice."""

from __future__ import annotations

import asyncio
import base64
import json
import tracemalloc
from pathlib import Path

import pytest
from starlette.types import Message

from latentsync.schema.fields import SyncMode
from latentsync.schema.responses import PredictDetails, PredictResponse
from latentsync.server.routes.predict import FinishedRun, PredictResultResponse

DETAILS = PredictDetails(
    guidance_scale=1.5,
    inference_steps=20,
    seed=7,
    engine="square",
    model_version="1",
    sync_mode=SyncMode.BOUNCE,
    frames=10,
    frames_without_face=0,
    faces_found=1,
    fps=25.0,
    width=96,
    height=64,
    duration_s=0.4,
    seconds={"fetch": 0.1},
)


def finished(path: Path) -> FinishedRun:
    return FinishedRun('run "1"', path.open("rb"), path.stat().st_size, DETAILS, 12.34)


async def _hang_on() -> Message:
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


def send_all(answer: PredictResultResponse) -> tuple[dict[bytes, bytes], bytes]:
    messages: list[Message] = []

    async def send(message: Message) -> None:
        messages.append(message)

    scope = {"type": "http", "asgi": {"spec_version": "2.4"}}
    asyncio.run(answer(scope, _hang_on, send))
    body = b"".join(message["body"] for message in messages[1:])
    return dict(messages[0]["headers"]), body


@pytest.mark.parametrize("size_bytes", [0, 1, 2, 3, 196_607, 196_608, 196_609, 400_000])
def test_the_body_is_contract_json_of_the_declared_length(tmp_path: Path, size_bytes: int) -> None:
    video = bytes(number % 251 for number in range(size_bytes))
    path = tmp_path / "result.mp4"
    path.write_bytes(video)
    headers, body = send_all(PredictResultResponse(finished(path)))
    assert int(headers[b"content-length"]) == len(body)
    assert headers[b"content-type"] == b"application/json"
    answer = PredictResponse.model_validate(json.loads(body))
    assert base64.b64decode(answer.result.video_base64) == video
    assert (answer.run_id, answer.run_time_ms) == ('run "1"', 12.3)
    assert answer.result.details == DETAILS


def test_memory_stays_flat_for_a_large_video(tmp_path: Path) -> None:
    path = tmp_path / "result.mp4"
    size_bytes = 32 * 1024 * 1024
    with path.open("wb") as file:
        file.truncate(size_bytes)
    sent = 0

    async def send(message: Message) -> None:
        nonlocal sent
        sent += len(message.get("body", b""))

    answer = PredictResultResponse(finished(path))
    tracemalloc.start()
    try:
        asyncio.run(answer({"type": "http", "asgi": {"spec_version": "2.4"}}, _hang_on, send))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sent > size_bytes * 4 / 3
    assert peak_bytes < 4 * 1024 * 1024


def test_the_file_is_closed_when_the_receiver_has_gone(tmp_path: Path) -> None:
    path = tmp_path / "result.mp4"
    path.write_bytes(b"x" * 1_000_000)
    run = finished(path)

    async def gone(message: Message) -> None:
        raise OSError("connection lost")

    answer = PredictResultResponse(run)
    with pytest.raises(Exception):  # noqa: B017, PT011  (starlette's own)
        asyncio.run(answer({"type": "http", "asgi": {"spec_version": "2.4"}}, _hang_on, gone))
    assert run.video.closed

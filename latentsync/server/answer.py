"""Contract A's answer, written while it is sent: memory stays flat whatever the video's size."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from latentsync.answers import PredictDetails

_SLICE_BYTES = 3 * 64 * 1024  # a multiple of 3, so that slices of base64 join without padding


@dataclass(frozen=True)
class FinishedRun:
    """A finished video as an open file (its folder may be gone) and what is known about it."""

    run_id: str
    video: IO[bytes]
    video_bytes: int
    details: PredictDetails
    run_time_ms: float


class PredictAnswer(StreamingResponse):
    """``{"run_id", "result": {"video_base64", "details"}, "run_time_ms"}`` with its exact length.

    Closes the video file when it has been sent, or when the receiver has gone.
    """

    media_type = "application/json"

    def __init__(self, finished: FinishedRun) -> None:
        head, tail = _around_the_video(finished)
        length = len(head) + 4 * -(-finished.video_bytes // 3) + len(tail)
        self._video = finished.video
        super().__init__(
            _slices(head, finished.video, tail), headers={"content-length": str(length)}
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer."""
        with self._video:
            await super().__call__(scope, receive, send)


def _around_the_video(finished: FinishedRun) -> tuple[bytes, bytes]:
    head = f'{{"run_id": {json.dumps(finished.run_id)}, "result": {{"video_base64": "'
    details = finished.details.model_dump_json()
    tail = f'", "details": {details}}}, "run_time_ms": {finished.run_time_ms:.1f}}}'
    return head.encode(), tail.encode()


def _slices(head: bytes, video: IO[bytes], tail: bytes) -> Iterator[bytes]:
    yield head
    for part in iter(lambda: video.read(_SLICE_BYTES), b""):
        yield base64.b64encode(part)
    yield tail

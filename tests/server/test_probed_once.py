"""Each medium of a prediction is scanned once, by whichever process has it first."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from latentsync import runner
from latentsync.jobs import service
from tests.server.clips import as_base64, write_clip, write_speech
from tests.server.engines import SquareEngine
from tests.server.live import AUTH, serving_engine
from tests.server.queues import Server, offering, queue_server

SCANS = re.compile(r"scanned (.+) in [0-9.]+ s")
BEFORE = "at submission"  # what a run's log says if nothing was left to scan


@pytest.fixture
def queue(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Server]:
    caplog.set_level(logging.INFO, service.__name__)
    with queue_server(tmp_path / "server", worker=True) as server:
        yield server


@pytest.fixture
def media(tmp_path: Path) -> tuple[Path, Path]:
    return write_clip(tmp_path / "clip.mp4"), write_speech(tmp_path / "speech.wav")


def finish(server: Server, path: str = "/v1/predictions", **call: Any) -> None:
    answer = httpx.post(
        server.url + path, headers={**AUTH, "Prefer": "wait=60"}, timeout=100, **call
    )
    assert (answer.status_code, answer.json()["status"]) == (200, "succeeded"), answer.text


def scans(server: Server, caplog: pytest.LogCaptureFixture) -> tuple[Counter[str], Counter[str]]:
    """Return which fields were scanned how often: by the server, by the worker."""
    return scans_in(caplog.text), scans_in(server.farm.log())


def scans_in(log: str) -> Counter[str]:
    lists = [fields for fields in SCANS.findall(log) if fields != BEFORE]
    return Counter(field for fields in lists for field in fields.split(", "))


@pytest.mark.processes
def test_files_of_a_form_are_scanned_by_the_server(
    queue: Server, media: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    video, audio = media
    finish(queue, files={"video": video.read_bytes(), "audio": audio.read_bytes()})
    assert scans(queue, caplog) == ({"video": 1, "audio": 1}, {})


@pytest.mark.processes
def test_base64_and_uploads_are_scanned_by_the_server(
    queue: Server, media: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    video, audio = media
    url = f"{queue.url}/v1/uploads"
    upload = httpx.post(url, content=audio.read_bytes(), headers=AUTH).json()["url"]
    finish(queue, json={"video_base64": as_base64(video), "audio_url": upload})
    assert scans(queue, caplog) == ({"video_base64": 1, "audio_url": 1}, {})


@pytest.mark.processes
def test_urls_are_scanned_by_the_worker(
    queue: Server, media: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    with offering(media[0].parent) as url:
        finish(queue, json={"video_url": f"{url}/clip.mp4", "audio_url": f"{url}/speech.wav"})
    assert scans(queue, caplog) == ({}, {"video_url": 1, "audio_url": 1})


def test_a_prediction_without_a_queue_scans_its_media_once(
    tmp_path: Path, media: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, runner.__name__)
    body = {"video_base64": as_base64(media[0]), "audio_base64": as_base64(media[1])}
    with serving_engine(tmp_path, SquareEngine()) as url:
        answer = httpx.post(f"{url}/predict", json=body, headers=AUTH, timeout=100)
    assert answer.status_code == 200, answer.text
    assert scans_in(caplog.text) == {"video_base64": 1, "audio_base64": 1}

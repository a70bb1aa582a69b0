"""One server with a worker for each file of tests, and what its callers send."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.clips import as_base64, write_clip, write_speech
from tests.server.live import AUTH, KEY, OTHER_AUTH, OTHER_KEY, serving_jobs, settings_for


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny clip.mp4 and speech.wav."""
    folder = tmp_path_factory.mktemp("media")
    write_clip(folder / "clip.mp4")
    write_speech(folder / "speech.wav")
    return folder


@pytest.fixture(scope="module")
def body(media: Path) -> dict[str, Any]:
    """A valid request."""
    video, audio = media / "clip.mp4", media / "speech.wav"
    return {"video_base64": as_base64(video), "audio_base64": as_base64(audio)}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the server's files."""
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def url(data: Path) -> Iterator[str]:
    """Address of a server with one worker and two keys."""
    with serving_jobs(settings_for(data, api_keys=(KEY, OTHER_KEY))) as url:
        yield url


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[httpx.Client]:
    """A caller."""
    with httpx.Client(base_url=f"{url}/v1", headers=AUTH, timeout=90) as client:
        yield client


@pytest.fixture(scope="module")
def stranger(url: str) -> Iterator[httpx.Client]:
    """A caller with another key."""
    with httpx.Client(base_url=f"{url}/v1", headers=OTHER_AUTH, timeout=90) as client:
        yield client


Submit = Callable[..., dict[str, Any]]


@pytest.fixture
def submit(client: httpx.Client, body: dict[str, Any]) -> Submit:
    """Submit the request, whose run does what the seed says, and return the job."""

    def hand_in(seed: int = 0, *, wait_s: int | None = None, **fields: Any) -> dict[str, Any]:
        headers = {} if wait_s is None else {"Prefer": f"wait={wait_s}"}
        response = client.post(
            "/predictions", json={**body, "seed": seed, **fields}, headers=headers
        )
        assert response.status_code in (200, 202), response.text
        job: dict[str, Any] = response.json()
        return job

    return hand_in

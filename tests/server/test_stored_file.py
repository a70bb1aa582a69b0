"""Finished videos are served to HEAD and GET, at the URL of every contract."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from latentsync.jobs.models import JobStatus
from latentsync.jobs.store import Finished
from latentsync.server.middleware import ANONYMOUS
from tests.server.queues import queue_server

CONTENT = bytes(range(256)) * 4
NAME = "a1b2c3.mp4"


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Addresses of one finished video, by contract."""
    folder: Path = tmp_path_factory.mktemp("server")
    with queue_server(folder, require_key=False) as server:
        jobs = server.farm.service
        [job] = jobs.submit([server.farm.submission()], ANONYMOUS)
        key = f"results/{job.id}/{NAME}"
        (folder / "video").write_bytes(CONTENT)
        jobs.files.put(folder / "video", key)
        begun = jobs.store.begin(job.id, "w")
        assert begun is not None
        jobs.store.finish(begun, Finished(JobStatus.SUCCEEDED, result_key=key))
        yield {
            "v1": f"{server.url}/v1/predictions/{job.id}/output",
            "tasks": f"{server.url}/outputs/{job.id}/{NAME}",
            "lipsync": f"{server.url}/static/results/{job.id}/{NAME}",
        }


@pytest.mark.parametrize("contract", ["v1", "tasks", "lipsync"])
def test_head_answers_like_get_without_the_video(urls: dict[str, str], contract: str) -> None:
    got, head = httpx.get(urls[contract]), httpx.head(urls[contract])
    assert (got.status_code, got.content) == (200, CONTENT)
    assert (head.status_code, head.content) == (200, b"")
    assert {**head.headers, "date": ""} == {**got.headers, "date": ""}
    assert head.headers["content-length"] == str(len(CONTENT))
    part = httpx.head(urls[contract], headers={"Range": "bytes=0-9"})
    assert (part.status_code, part.headers["content-length"]) == (200, str(len(CONTENT)))
    for known in (head.headers["etag"], f'"another", W/{head.headers["etag"]}', "*"):
        answer = httpx.head(urls[contract], headers={"If-None-Match": known})
        assert answer.status_code == 304, known
    assert httpx.head(urls[contract], headers={"If-None-Match": '"another"'}).status_code == 200


@pytest.mark.parametrize("contract", ["v1", "tasks", "lipsync"])
def test_head_of_a_missing_result_is_404(urls: dict[str, str], contract: str) -> None:
    url = urls[contract].replace("-", "0")
    assert (httpx.get(url).status_code, httpx.head(url).status_code) == (404, 404)


@pytest.mark.parametrize("contract", ["v1", "tasks", "lipsync"])
@pytest.mark.parametrize(
    "given", ["bytes=5-2", "bytes=1-0", "bytes=-", "bytes=a-b", "bytes=0-1,4-5"]
)
def test_an_invalid_range_is_ignored(urls: dict[str, str], contract: str, given: str) -> None:
    answer = httpx.get(urls[contract], headers={"Range": given})
    assert (answer.status_code, answer.content) == (200, CONTENT)
    assert "content-range" not in answer.headers


@pytest.mark.parametrize(
    ("given", "start", "stop"), [("bytes=5-5", 5, 6), ("bytes=1000-9999", 1000, 1024)]
)
def test_a_range_is_sent_alone(urls: dict[str, str], given: str, start: int, stop: int) -> None:
    answer = httpx.get(urls["v1"], headers={"Range": given})
    assert (answer.status_code, answer.content) == (206, CONTENT[start:stop])
    assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(CONTENT)}"


@pytest.mark.parametrize("given", ["bytes=1024-", "bytes=1024-1024", "bytes=-0"])
def test_an_empty_range_is_refused(urls: dict[str, str], given: str) -> None:
    answer = httpx.get(urls["v1"], headers={"Range": given})
    assert (answer.status_code, answer.headers["content-range"]) == (416, "bytes */1024")

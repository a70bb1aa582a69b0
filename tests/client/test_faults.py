"""Broken connections, servers that stumble, and streams that end too early, for both clients."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from latentsync.client import Patience
from latentsync.errors import FetchTimeout, InvalidField, ServerError, Unreachable
from tests.client.either import KINDS, QUICK, client_of
from tests.client.flaky import Fault, FlakyProxy, flaky
from tests.client.service import Service
from tests.jobs import square_runner
from tests.server.live import KEY

pytestmark = pytest.mark.processes

BUSY = b"HTTP/1.1 503 Busy\r\nContent-Length: 13\r\nConnection: close\r\n\r\n<html></html>"
SEEDS = itertools.count(100)  # of this test process, whose server it is: never one twice
LATER = BUSY.replace(b"\r\n\r\n", b"\r\nRetry-After: 3600\r\n\r\n")


@pytest.fixture
def proxy(service: Service) -> Iterator[FlakyProxy]:
    with flaky(service.url) as lent:
        yield lent


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def client(kind: str, proxy: FlakyProxy) -> Iterator[Any]:
    with client_of(kind, proxy.url, KEY) as lent:
        yield lent


def jobs_with(seed: int, service: Service) -> list[str]:
    """Return the jobs that were submitted with this seed, once they have ended."""
    with client_of("blocking", service.url, KEY) as sound:
        ended = [sound.wait(job) for job in sound.list(limit=100).jobs]
    return [job.id for job in ended if job.details is not None and job.details.seed == seed]


@pytest.mark.parametrize(
    "fault",
    [
        Fault(answer_bytes=0),  # the job is recorded, but the answer is lost
        Fault(answer_bytes=60),
        Fault(request_bytes=900),  # in the middle of the files
        Fault(request_bytes=0),
        Fault(answer=BUSY),
    ],
    ids=["answer lost", "answer cut", "request cut", "disconnected", "503"],
)
def test_a_fault_makes_no_second_job(
    client: Any, proxy: FlakyProxy, service: Service, fault: Fault
) -> None:
    seed = next(SEEDS)
    proxy.faults = [fault, fault]
    job = client.submit(*service.media, seed=seed)
    assert proxy.connections == 3
    assert jobs_with(seed, service) == [job.id]


def test_a_job_is_erased_though_the_answer_is_lost(
    client: Any, proxy: FlakyProxy, service: Service
) -> None:
    with client_of("blocking", service.url, KEY) as sound:
        job = sound.submit(*service.media)
    proxy.faults = [Fault(answer_bytes=0)]
    assert client.delete(job) is True
    assert proxy.connections == 2
    with pytest.raises(ServerError) as refused:
        client.delete(job)
    assert refused.value.server_code == "JOB_NOT_FOUND"


def test_retries_are_logged(
    client: Any, proxy: FlakyProxy, service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    proxy.faults = [Fault(answer=BUSY)]
    with caplog.at_level(logging.WARNING, "latentsync"):
        client.list()
    (line,) = caplog.messages
    assert line.startswith("The server answered with status 503. Retrying in 0.0 s.")
    assert KEY not in line


def test_it_fails_after_the_last_retry(client: Any, proxy: FlakyProxy, service: Service) -> None:
    proxy.faults = 10 * [Fault(answer_bytes=0)]
    with pytest.raises(Unreachable, match="127.0.0.1"):
        client.submit(*service.media)
    assert proxy.connections == 1 + QUICK.retries


def test_a_server_that_asks_for_an_hour_is_not_waited_for(client: Any, proxy: FlakyProxy) -> None:
    proxy.faults = [Fault(answer=LATER)]
    with pytest.raises(ServerError) as refused:
        client.list()
    assert (refused.value.server_status, refused.value.retry_after_s) == (503, 3600.0)
    assert proxy.connections == 1


def test_predict_is_never_repeated(client: Any, proxy: FlakyProxy, service: Service) -> None:
    proxy.faults = [Fault(answer_bytes=0)]
    with pytest.raises(Unreachable):
        client.predict(*service.media)
    assert proxy.connections == 1


def test_a_stream_of_events_is_taken_up_where_it_broke(
    kind: str, proxy: FlakyProxy, service: Service
) -> None:
    with client_of(kind, service.url, KEY) as sound:
        job = sound.submit(*service.media)
        sound.wait(job)
        expected = [event for event in sound.events(job) if event.number is not None]
    for broken_after in (0, 400, 650, 800):
        with client_of(kind, proxy.url, KEY) as client:
            proxy.faults = [Fault(answer_bytes=broken_after)]
            assert [one for one in client.events(job) if one.number is not None] == expected


def test_waiting_outlives_broken_streams(client: Any, proxy: FlakyProxy, service: Service) -> None:
    job = client.submit(*service.media, seed=square_runner.SLOW + 800)
    proxy.faults = [Fault(answer_bytes=500), Fault(answer=BUSY), Fault(answer_bytes=700)]
    assert client.wait(job).status == "succeeded"


CLOSE = b"\r\nConnection: close\r\n\r\n"
HTML = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6" + CLOSE + b"<html>"
GONE = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0" + CLOSE
MUTE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream" + CLOSE
ODD = MUTE + b'id: 9\nevent: status\ndata: {"status": "dreaming"}\n\n'


@pytest.mark.parametrize("answer", [HTML, GONE, MUTE, ODD], ids=["html", "no route", "mute", "odd"])
def test_where_events_do_not_come_through_it_asks(
    client: Any, service: Service, proxy: FlakyProxy, answer: bytes
) -> None:
    proxy.instead = {b"/events": answer}
    job = client.submit(*service.media, seed=square_runner.SLOW + 300)
    seen: list[str] = []
    done = client.wait(job, on_progress=lambda one: seen.append(one.status))
    assert (done.status, seen[-1]) == ("succeeded", "succeeded")
    assert proxy.answered_here >= 1


@pytest.fixture(scope="module")
def finished(service: Service) -> str:
    """A job whose video is larger than what faults let through."""
    with client_of("blocking", service.url, KEY) as client:
        return client.wait(client.submit(*service.media)).raise_for_status().id


def whole(service: Service, job: str, folder: Path) -> bytes:
    with client_of("blocking", service.url, KEY) as client:
        return client.download(job, folder / "whole.mp4").read_bytes()


def test_a_broken_download_is_resumed(
    client: Any, proxy: FlakyProxy, service: Service, finished: str, tmp_path: Path
) -> None:
    expected = whole(service, finished, tmp_path)
    sound = Fault()
    proxy.faults = [
        sound,
        Fault(answer_bytes=2500),
        Fault(answer_bytes=0),
        Fault(answer_bytes=1500),
    ]
    target = client.download(finished, tmp_path / "o.mp4")
    assert target.read_bytes() == expected
    ranges = [
        head.split(b"Range: bytes=")[1].split(b"\r\n")[0]
        for head in proxy.heads
        if b"\nRange" in head
    ]
    starts = [int(wanted.split(b"-")[0]) for wanted in ranges[1:]]
    assert starts == sorted(starts)
    assert 0 < starts[0] < starts[-1] < len(expected)
    assert {path.name for path in tmp_path.iterdir()} == {"whole.mp4", "o.mp4"}


def test_a_later_call_resumes_an_interrupted_download(
    client: Any, proxy: FlakyProxy, service: Service, finished: str, tmp_path: Path
) -> None:
    target = tmp_path / "o.mp4"
    proxy.faults = [
        Fault(),
        *(1 + QUICK.retries) * [Fault(answer_bytes=2500)],
        *4 * [Fault(answer_bytes=0)],
    ]
    impatient = Patience(retries=0)
    with client_of("blocking", proxy.url, KEY, impatient) as first, pytest.raises(Unreachable):
        first.download(finished, target)
    (part,) = tmp_path.iterdir()
    assert 0 < part.stat().st_size < 2500
    proxy.faults = []
    client.download(finished, target)
    assert list(tmp_path.iterdir()) == [target]
    assert target.read_bytes() == whole(service, finished, tmp_path)


def test_a_server_without_ranges_or_etags_is_read_from_the_start(
    client: Any, proxy: FlakyProxy, finished: str, tmp_path: Path
) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 10" + CLOSE
    proxy.instead = {b"/output": head + b"01234"}  # and breaks off
    with pytest.raises(Unreachable):
        client.download(finished, tmp_path / "o.mp4")
    assert proxy.answered_here == 2 + QUICK.retries
    proxy.instead = {b"/output": head + b"0123456789"}
    assert client.download(finished, tmp_path / "o.mp4").read_bytes() == b"0123456789"
    assert [path.name for path in tmp_path.iterdir()] == ["o.mp4"]


def test_a_video_that_is_another_one_now_is_not_mixed_with_the_old(
    client: Any, proxy: FlakyProxy, finished: str, tmp_path: Path
) -> None:
    def answering(etag: bytes, size: bytes, content: bytes) -> bytes:
        head = b"HTTP/1.1 200 OK\r\nETag: " + etag + b"\r\nContent-Length: " + size
        return head + CLOSE + content

    proxy.instead = {b"/output": answering(b'"old"', b"10", b"old")}
    with pytest.raises(Unreachable):
        client.download(finished, tmp_path / "o.mp4")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]
    proxy.instead = {b"/output": answering(b'"new"', b"6", b"newnew")}
    assert client.download(finished, tmp_path / "o.mp4").read_bytes() == b"newnew"


def test_two_downloads_to_one_file_do_not_mix(
    service: Service, proxy: FlakyProxy, finished: str, tmp_path: Path
) -> None:
    target = tmp_path / "o.mp4"
    with (
        client_of("blocking", service.url, KEY) as one,
        client_of("blocking", service.url, KEY) as two,
    ):

        def meanwhile(_here: int, _whole: int | None) -> None:
            with pytest.raises(InvalidField, match="another download"):
                two.download(finished, target)

        one.download(finished, target, meanwhile)
    assert target.read_bytes() == whole(service, finished, tmp_path)


def test_a_folder_is_no_target(client: Any, finished: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidField, match="is a folder"):
        client.download(finished, tmp_path)


def test_a_silent_stream_does_not_hold_up_waiting(service: Service, proxy: FlakyProxy) -> None:
    hasty = Patience(retries=1, first_pause_s=0.01, silence_s=0.2, poll_every_s=0.1)
    with client_of("blocking", service.url, KEY, hasty) as client:
        job = client.submit(*service.media, seed=square_runner.SLOW + 60_000)
        started = time.monotonic()
        with pytest.raises(FetchTimeout):
            client.wait(job, timeout_s=0.6)
        assert time.monotonic() - started < 12  # the server breaks its silence after 15
        client.cancel(job)
        assert client.wait(job).status == "canceled"

"""Forms with options and files, read as the native API reads them; no server is needed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from latentsync.errors import (
    Canceled,
    ConflictingFields,
    EngineUnavailable,
    InvalidField,
    LatentSyncError,
    MalformedBody,
    MissingField,
    TooManyBytes,
    UnknownField,
)
from latentsync.jobs.database import open_database
from latentsync.jobs.disk_space import DiskReserve
from latentsync.jobs.engine_availability import EngineAvailability
from latentsync.jobs.service import Submission
from latentsync.jobs.storage import Storage
from latentsync.pipelines.registry import survey_engines
from latentsync.schema.fields import SEGMENTS_MAX
from latentsync.schema.run import MediaSource, PathSource
from latentsync.server.routes.submissions import read_submissions
from tests.server.live import settings_for
from tests.without_packages import hide

Contents = dict[str, object]
Read = Callable[..., tuple[Submission, Contents]]
TWO = [{"start_s": 0.5, "speaker": {"frame": 0, "point": [3, 4]}}, {"start_s": 2, "end_s": 3.5}]
BOTH = {"segments.0.audio": b"one", "segments.1.audio": b"two"}


def content_of(source: MediaSource) -> object:
    assert isinstance(source, PathSource)
    return source.name, source.path.read_bytes()


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Read a form; returns the submission, and name and content of each medium that is a file."""

    def read(
        files: dict[str, bytes], *, max_media_bytes: int = 1000, **fields: object
    ) -> tuple[Submission, Contents]:
        settings = settings_for(tmp_path, max_media_bytes=max_media_bytes)
        reserve = DiskReserve(settings, Storage(settings.storage))
        data = {
            name: value if isinstance(value, str) else json.dumps(value)
            for name, value in fields.items()
        }
        sent = httpx.Request("POST", "http://a/", data=data, files=list(files.items()))
        body = sent.read()
        head = [(name.lower(), value) for name, value in sent.headers.raw]

        async def receive() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        async def take() -> tuple[Submission, Contents]:
            # Inside an application Starlette raises an HTTP error for a bad form.
            request = Request({"type": "http", "headers": head, "app": None}, receive)
            async with read_submissions(request, settings, reserve) as ((one,), is_list):
                assert not is_list
                media = one.request.media.items()
                return one, {
                    name: content_of(source)
                    for name, source in media
                    if isinstance(source, PathSource)
                }

        taken = asyncio.run(take())
        assert list((tmp_path / "work").glob("*/*")) == []
        return taken

    return read


@pytest.mark.parametrize("is_named", [False, True])
def test_a_form_is_read_no_further_than_to_an_engine_that_cannot_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_named: bool
) -> None:
    """Unless it may be a repeated one: such a call gets its job."""
    settings = settings_for(tmp_path)
    hide(monkeypatch)
    database = open_database(settings.jobs_database)
    engines = EngineAvailability(database, lambda: survey_engines(settings))
    sent = httpx.Request(
        "POST", "http://a/", data={"engine": "latentsync-1.6"}, files={"video": b"v" * 9_000_000}
    )
    parts = [sent.read()[at : at + 65536] for at in range(0, 9_000_000, 65536)]
    head = [(name.lower(), value) for name, value in sent.headers.raw]
    if is_named:
        head.append((b"idempotency-key", b"a name"))
    read: list[Message] = []

    async def receive() -> Message:
        read.append({"type": "http.request", "body": parts[len(read)], "more_body": True})
        if len(read) == len(parts):
            raise ClientDisconnect
        return read[-1]

    async def take() -> None:
        request = Request({"type": "http", "headers": head, "app": None}, receive)
        reserve = DiskReserve(settings, Storage(settings.storage))
        async with read_submissions(request, settings, reserve, engines=engines):
            pass

    with pytest.raises(Canceled if is_named else EngineUnavailable):
        asyncio.run(take())
    assert len(read) == (len(parts) if is_named else 1)
    assert list((tmp_path / "work").glob("*/*")) == []
    database.dispose()


def test_each_segment_has_its_file(read: Read) -> None:
    one, contents = read({"video": b"v", **BOTH}, segments=TWO, keep_sound=False)
    names = ("video", "segments.0.audio", "segments.1.audio")
    assert contents == {name: (name, {"video": b"v", **BOTH}[name]) for name in names}
    first, second = one.request.segments
    assert (first.start_s, second.start_s, second.end_s) == (0.5, 2, 3.5)
    assert one.request.audio is None
    assert not one.request.options.keep_sound


def test_the_common_recording_is_for_segments_without_their_own(read: Read) -> None:
    files = {"segments.1.audio": b"own", "video": b"v", "audio": b"common"}
    one, contents = read(files, segments=TWO)
    assert contents["audio"] == ("audio", b"common")
    assert [segment.audio is None for segment in one.request.segments] == [True, False]


def test_a_segment_may_have_a_url_next_to_anothers_file(read: Read) -> None:
    segments = [{"audio_url": "http://a.example/1"}, TWO[1]]
    one, contents = read({"segments.1.audio": b"two"}, video_url="http://a/v", segments=segments)
    assert contents == {"segments.1.audio": ("segments.1.audio", b"two")}
    assert list(one.request.recordings) == ["segments.0.audio", "segments.1.audio"]


def test_the_same_form_is_known_again_and_another_file_is_another_form(read: Read) -> None:
    def fingerprint(files: dict[str, bytes]) -> str:
        return read({"video": b"v", **files}, segments=TWO)[0].fingerprint

    first = fingerprint(BOTH)
    assert fingerprint(dict(reversed(BOTH.items()))) == first
    exchanged = {"segments.0.audio": b"two", "segments.1.audio": b"one"}
    assert fingerprint(exchanged) != first
    assert fingerprint({**BOTH, "segments.1.audio": b"three"}) != first
    assert read({"video": b"v", **BOTH}, segments=TWO[::-1])[0].fingerprint != first


def test_as_many_files_as_segments_are_taken(read: Read) -> None:
    files = {f"segments.{number}.audio": b"%d" % number for number in range(SEGMENTS_MAX)}
    files["video"] = b"v"
    fields = [{"start_s": number} for number in range(SEGMENTS_MAX)]
    one, contents = read(files, segments=fields)
    assert contents.keys() == files.keys()
    last = SEGMENTS_MAX - 1
    assert contents[f"segments.{last}.audio"] == (f"segments.{last}.audio", b"%d" % last)
    assert one.request.segments[last].start_s == last


def test_many_long_addresses_fit(read: Read) -> None:
    segments = [{"audio_url": "http://a.example/" + "x" * 2000}] * SEGMENTS_MAX
    assert len(read({"video": b"v"}, segments=segments)[0].request.segments) == SEGMENTS_MAX


@pytest.mark.parametrize(
    ("files", "segments", "error", "said"),
    [
        (
            {"segments.2.audio": b"x"},
            TWO,
            UnknownField,
            "segment that is not there: segments has 2",
        ),
        ({"segments.0.audio": b"x"}, None, UnknownField, "segments has 0 entries"),
        ({"segments.00.audio": b"x"}, TWO, UnknownField, "Allowed: video, audio, segments.0.audio"),
        ({"segments.100.audio": b"x"}, TWO, UnknownField, "to segments.99.audio"),
        ({"segments.-1.audio": b"x"}, TWO, UnknownField, "Unknown file"),
        ({"segments./../x.audio": b"x"}, TWO, UnknownField, "Unknown file"),
        ({"segments.0.video": b"x"}, TWO, UnknownField, "Unknown file"),
        ({"segments": b"[]"}, None, UnknownField, "-F 'segments=<FILE'"),
        ({"segments.0.audio": b"x"}, TWO, MissingField, "segments.1.audio_url or"),
        ({**BOTH, "audio": b"x"}, TWO, ConflictingFields, "would not be used"),
        (
            {"segments.0.audio": b"x"},
            [{"audio_url": "http://a/b"}],
            ConflictingFields,
            "either segments.0.audio or segments.0.audio_url",
        ),
        (
            {"segments.0.audio": b"x"},
            [{"audio_base64": "AAAA"}],
            ConflictingFields,
            "either segments.0.audio or segments.0.audio_base64",
        ),
        ({"segments.0.audio": b"x"}, [{"start_s": "x"}], InvalidField, "segments.0.start_s is 'x'"),
        ({"segments.0.audio": b"x"}, ["x"], InvalidField, "segments.0 is 'x'"),
        ({"segments.0.audio": b"x"}, {"0": {}}, InvalidField, "segments is {'0': {}}"),
        ({"segments.0.audio": b"x"}, '[{"end_s": 1,}]', InvalidField, "input should be an array"),
        ({"audio": b"x"}, [{}] * (SEGMENTS_MAX + 1), InvalidField, "segments is"),
        ({"segments.0.audio": b"x" * 2000}, [{}], TooManyBytes, "segments.0.audio is larger"),
    ],
)
def test_a_file_that_fits_nowhere_is_refused(
    read: Read,
    files: dict[str, bytes],
    segments: Any,
    error: type[LatentSyncError],
    said: str,
) -> None:
    fields = {} if segments is None else {"segments": segments}
    with pytest.raises(error) as refused:
        read({"video": b"v", **files}, **fields)
    assert said in refused.value.message
    assert refused.value.field


def test_more_files_than_there_can_be_are_refused(read: Read) -> None:
    files = {f"segments.{number}.audio": b"x" for number in range(SEGMENTS_MAX + 3)}
    with pytest.raises(MalformedBody, match="Too many files"):
        read(files, segments=TWO)


def test_an_empty_form_field_of_a_browser_counts_as_absent(tmp_path: Path) -> None:
    boundary = b"----part"
    parts = [
        (b'name="video"; filename="v.mp4"', b"video"),
        (b'name="audio"; filename="a.wav"', b"speech"),
        (b'name="segments.0.audio"; filename=""\r\nContent-Type: application/octet-stream', b""),
        (b'name="segments.1.audio"', b""),  # as the page of /docs sends it
        *((b'name="%s"' % name, b"") for name in (b"video_url", b"seed", b"segments", b"webhook")),
        (b'name="guidance_scale"', b"2.5"),
    ]
    head = b"--" + boundary + b"\r\nContent-Disposition: form-data; "
    body = b"".join(head + about + b"\r\n\r\n" + value + b"\r\n" for about, value in parts)
    settings = settings_for(tmp_path)

    async def receive() -> Message:
        return {"type": "http.request", "body": body + b"--" + boundary + b"--\r\n"}

    async def take() -> Submission:
        kind = b"multipart/form-data; boundary=" + boundary
        scope = {"type": "http", "headers": [(b"content-type", kind)], "app": None}
        reserve = DiskReserve(settings, Storage(settings.storage))
        async with read_submissions(Request(scope, receive), settings, reserve) as ((one,), _):
            return one

    run = asyncio.run(take()).request
    assert (run.options.guidance_scale, run.options.seed, run.segments) == (2.5, 1247, ())
    assert set(run.media) == {"video", "audio"}

"""What is sent: options as the server wants them, and files that are never held in memory."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from latentsync.client import Media, Segment
from latentsync.client._payload import Options, PredictArgs, inline_body, open_submission
from latentsync.errors import ConflictingFields, InvalidField, LatentSyncError, MissingField
from latentsync.schema.fields import SEGMENTS_MAX
from latentsync.schema.predict import parse_request

MIB = 1024 * 1024
LEFT = {"frame": 1, "point": [3, 4]}


def predict_args(
    video: Media, audio: Media | None = None, *segments: Segment, **options: Any
) -> PredictArgs:
    given: Options = options  # type: ignore[assignment]
    return PredictArgs(video, audio, segments, given)


def opened(given: PredictArgs) -> dict[str, Any]:
    with open_submission(given) as body:
        return body


def test_defaults_are_left_to_the_server() -> None:
    options: Options = {"seed": 1247, "sync_mode": "bounce", "guidance_scale": 2.0, "engine": None}
    body = inline_body(predict_args("http://a/v", b"a", keep_sound=True, **options))
    assert body == {"video_url": "http://a/v", "audio_base64": "YQ==", "guidance_scale": 2.0}


def test_a_sync_mode_that_was_chosen_is_sent_with_segments() -> None:
    segment = Segment(b"a", start_s=9)
    for mode in ("bounce", "loop"):
        assert inline_body(predict_args(b"v", None, segment, sync_mode=mode))["sync_mode"] == mode
    assert "sync_mode" not in inline_body(predict_args(b"v", None, segment))


def test_addresses_alone_are_sent_as_json() -> None:
    with open_submission(predict_args("http://a/v", "upload://b", seed=3), "https://hook") as body:
        sent = {"video_url": "http://a/v", "audio_url": "upload://b", "seed": 3}
        assert body == {"json": {**sent, "webhook": "https://hook"}}


def test_segments_are_sent_with_their_recordings(tmp_path: Path) -> None:
    (tmp_path / "b.wav").write_bytes(b"b")
    segments = [
        Segment(b"a", speaker=LEFT),
        Segment(str(tmp_path / "b.wav"), start_s=2, end_s=3.5, audio_start_s=0.25),
        Segment("https://a/c"),
    ]
    body = inline_body(predict_args(b"v", None, *segments, keep_sound=False))
    assert body == {
        "video_base64": "dg==",
        "segments": [
            {"audio_base64": "YQ==", "speaker": LEFT},
            {"audio_base64": "Yg==", "start_s": 2, "end_s": 3.5, "audio_start_s": 0.25},
            {"audio_url": "https://a/c"},
        ],
        "keep_sound": False,
    }
    assert [segment.start_s for segment in parse_request(body).segments] == [0, 2, 0]


def test_segments_may_share_a_recording() -> None:
    body = inline_body(
        predict_args("http://a/v", "http://a/a", Segment(end_s=2), Segment(start_s=2))
    )
    assert body["segments"] == [{"end_s": 2}, {"start_s": 2}]
    assert body["audio_url"] == "http://a/a"


def test_files_of_segments_are_parts_of_a_form(tmp_path: Path) -> None:
    (tmp_path / "b.wav").write_bytes(b"b")
    segments = [Segment("http://a/a", speaker=LEFT), Segment(tmp_path / "b.wav"), Segment(b"c")]
    with open_submission(predict_args("http://a/v", None, *segments)) as body:
        own, given = body["files"], json.loads(body["data"]["segments"])
        assert {name: name_sent for name, (name_sent, _, _) in own.items()} == {
            "segments.1.audio": "segments.1.audio",
            "segments.2.audio": "segments.2.audio",
        }
        assert given == [{"audio_url": "http://a/a", "speaker": LEFT}, {}, {}]
        file = own["segments.1.audio"][1]
        assert file.read() == b"b"
    assert file.closed


def test_segments_with_addresses_alone_are_sent_as_json() -> None:
    with open_submission(predict_args("http://a/v", None, Segment("upload://b"))) as body:
        sent = {"video_url": "http://a/v", "segments": [{"audio_url": "upload://b"}]}
        assert body == {"json": sent}


@pytest.mark.parametrize("send", [inline_body, opened])
@pytest.mark.parametrize(
    ("audio", "segments", "options", "error", "field"),
    [
        (None, [], {}, MissingField, "audio"),
        (None, [Segment(b"a"), Segment()], {}, MissingField, "segments.1.audio"),
        (b"a", [Segment(b"a")], {}, ConflictingFields, "audio"),
        (b"a", [{"audio": b"a"}], {}, InvalidField, "segments.0"),
        (None, [Segment("no.wav")], {}, InvalidField, "segments.0.audio"),
        (b"a", [Segment(start_s=2, end_s=1)], {}, InvalidField, "segments"),
        (b"a", [Segment(start_s=-1)], {}, InvalidField, "segments"),
        (b"a", [Segment(speaker={"frame": 0})], {}, InvalidField, "segments.0.speaker"),
        (b"a", [Segment()] * (SEGMENTS_MAX + 1), {}, InvalidField, "segments"),
        (b"a", [Segment()], {"sync_mode": "remap"}, ConflictingFields, "sync_mode"),
        (b"a", [], {"keep_sound": 1}, InvalidField, "keep_sound"),
    ],
)
def test_invalid_requests_are_refused_before_anything_is_sent(
    send: Any,
    audio: Media | None,
    segments: Sequence[Segment],
    options: Options,
    error: type[LatentSyncError],
    field: str,
) -> None:
    with pytest.raises(error) as refused:
        send(PredictArgs(b"v", audio, segments, options))
    assert str(refused.value.field).startswith(field)


def test_a_recording_is_not_in_the_text_of_a_segment() -> None:
    assert "secret" not in repr(Segment(b"secret"))


def test_a_file_is_sent_without_its_name(tmp_path: Path) -> None:
    (tmp_path / "secret name.mp4").write_bytes(b"v")
    with open_submission(predict_args(tmp_path / "secret name.mp4", b"a")) as body:
        form = httpx.Request("POST", "http://a", **body).read()
    assert b"secret" not in form
    assert form.count(b"octet-stream") == 2


def test_a_large_file_is_read_while_it_is_sent(tmp_path: Path) -> None:
    with (tmp_path / "large.mp4").open("wb") as file:
        file.truncate(64 * MIB)
    tracemalloc.start()
    try:
        with open_submission(predict_args(tmp_path / "large.mp4", b"a")) as body:
            for _ in range(2):  # a second time, when the first was cut
                request = httpx.Request("POST", "http://a", **body)
                assert isinstance(request.stream, httpx.SyncByteStream)
                sent_bytes = sum(len(part) for part in request.stream)
                assert sent_bytes == int(request.headers["content-length"])
                assert sent_bytes > 64 * MIB
        assert tracemalloc.get_traced_memory()[1] < 4 * MIB
    finally:
        tracemalloc.stop()


def test_files_are_closed_afterwards(tmp_path: Path) -> None:
    (tmp_path / "v").write_bytes(b"v")
    with open_submission(predict_args(tmp_path / "v", b"a")) as body:
        file = body["files"]["video"][1]
        assert not file.closed
    assert file.closed
    with pytest.raises(ValueError, match="closed file"):
        file.read()

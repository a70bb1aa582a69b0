"""What is sent: options as the server wants them, and files that are never held in memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import httpx
import pytest

from latentsync.client.request import Options, inline_body, open_submission

MIB = 1024 * 1024


def test_defaults_are_left_to_the_server() -> None:
    options: Options = {"seed": 1247, "sync_mode": "bounce", "guidance_scale": 2.0, "engine": None}
    assert inline_body("http://a/v", b"a", options) == {
        "video_url": "http://a/v",
        "audio_base64": "YQ==",
        "guidance_scale": 2.0,
    }


def test_addresses_alone_are_sent_as_json() -> None:
    with open_submission("http://a/v", "upload://b", {"seed": 3}, "https://hook") as body:
        sent = {"video_url": "http://a/v", "audio_url": "upload://b", "seed": 3}
        assert body == {"json": {**sent, "webhook": "https://hook"}}


def test_a_file_is_sent_without_its_name(tmp_path: Path) -> None:
    (tmp_path / "secret name.mp4").write_bytes(b"v")
    with open_submission(tmp_path / "secret name.mp4", b"a", {}, None) as body:
        form = httpx.Request("POST", "http://a", **body).read()
    assert b"secret" not in form
    assert form.count(b"octet-stream") == 2


def test_a_large_file_is_read_while_it_is_sent(tmp_path: Path) -> None:
    with (tmp_path / "large.mp4").open("wb") as file:
        file.truncate(64 * MIB)
    tracemalloc.start()
    try:
        with open_submission(tmp_path / "large.mp4", b"a", {}, None) as body:
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
    with open_submission(tmp_path / "v", b"a", {}, None) as body:
        file = body["files"]["video"][1]
        assert not file.closed
    assert file.closed
    with pytest.raises(ValueError, match="closed file"):
        file.read()

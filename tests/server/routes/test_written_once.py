"""Media reach the storage by one write, whichever way they come in."""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from latentsync.jobs.storage import Storage
from latentsync.server.app import build_app
from tests.server.clips import write_clip, write_speech
from tests.server.live import AUTH, serving, settings_for

MIB = 1024 * 1024


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    settings = settings_for(tmp_path, max_body_bytes=64 * MIB)
    with serving(build_app(settings)) as url:
        yield url, Path(settings.storage)


def written_bytes() -> int:
    """Return how many bytes this process has written to files; sockets do not count."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["wchar"])


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts what a process writes")
@pytest.mark.parametrize("way", ["upload", "form", "base64", "upload used"])
def test_media_are_written_once(server: tuple[str, Path], tmp_path: Path, way: str) -> None:
    url, stored = server
    clip = write_clip(tmp_path / "face.mp4")
    speech = write_speech(tmp_path / "speech.wav", seconds=60.0, sample_rate=48_000)
    content = speech.read_bytes()
    assert len(content) > 5 * MIB
    expected = 1.0
    with httpx.Client(base_url=url, headers=AUTH, timeout=60) as client:
        fields = {"video_base64": base64.b64encode(clip.read_bytes()).decode()}
        if way == "upload used":
            fields["audio_url"] = client.post("/v1/uploads", content=content).json()["url"]
            expected = 0.0
        if way == "base64":
            fields["audio_base64"] = base64.b64encode(content).decode()
        before = written_bytes()
        if way == "upload":
            answer = client.post("/v1/uploads", content=content)
        elif way == "form":
            files = {"video": clip.read_bytes(), "audio": content}
            answer = client.post("/v1/predictions", files=files)
        else:
            answer = client.post("/v1/predictions", json=fields)
        written = written_bytes() - before
    assert answer.status_code in (201, 202), answer.text
    assert abs(written / len(content) - expected) < 0.2
    assert content in [path.read_bytes() for path in stored.rglob("*") if path.is_file()]


def test_on_another_disk_media_are_received_next_to_the_storage(tmp_path: Path) -> None:
    """What cannot be renamed into the storage is not received in the work folder."""
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second disk here")
    storage = Storage(str(tmp_path / "files"))
    assert storage.receiving_dir(shared / "work") == tmp_path / "files" / ".receiving"
    assert storage.receiving_dir(tmp_path / "work") == tmp_path / "work"

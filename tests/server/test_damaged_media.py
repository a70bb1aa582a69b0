"""Damaged files over HTTP, to a server that is a process of its own: read, or refused plainly.

Flipped bits, missing ends and exchanged chunks, the same ones in every run. To read the answers:
``python -m tests.server.test_damaged_media``.
"""

from __future__ import annotations

import base64
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from latentsync.schema.responses import ErrorResponse
from tests.media.corpus import Clip, Pictures, Sound, write
from tests.server.clips import as_base64, write_clip, write_speech
from tests.server.live import AUTH, REPOSITORY, files_in

PER_CONTAINER = 25
MOST_BYTES = 600 * 1024 * 1024

_H264 = Pictures("libx264", "preset=ultrafast bf=2", size=(96, 64))
_AAC = Sound("aac")
CONTAINERS = (
    Clip("mp4", "mp4", _H264, _AAC),
    Clip("mkv", "matroska", _H264, Sound("flac")),
    Clip("webm", "webm", Pictures("libvpx", "deadline=realtime cpu-used=8"), Sound("libopus")),
    Clip("avi", "avi", Pictures("mpeg4", "bf=2"), Sound("pcm_s16le")),
    Clip("ts", "mpegts", _H264, _AAC),
    Clip("flv", "flv", _H264, _AAC),
    Clip("wav", "wav", None, Sound("pcm_s16le", 16_000)),
    Clip("mp3", "mp3", None, Sound("libmp3lame", 44_100)),
    Clip("m4a", "ipod", None, _AAC),
    Clip("ogg", "ogg", None, Sound("libopus"), "page_duration=100000"),
)


@dataclass(frozen=True)
class Damaged:
    """A damaged file; ``how`` says what was done to it."""

    content: bytes
    how: str


def damage(content: bytes, chance: random.Random) -> Damaged:
    """Flip bits, cut the file off, or exchange two chunks."""
    kind = chance.choice(("flipped", "cut", "swapped"))
    if kind == "cut":
        kept = chance.randrange(len(content))
        return Damaged(content[:kept], f"cut: {kept} of {len(content)} bytes")
    wrong = bytearray(content)
    if kind == "swapped":
        length = chance.choice((16, 200, 2000))
        length = min(length, len(content) // 3)
        first = chance.randrange(len(content) - 2 * length)
        second = chance.randrange(first + length, len(content) - length + 1)
        one, other = content[first : first + length], content[second : second + length]
        wrong[first : first + length], wrong[second : second + length] = other, one
        return Damaged(bytes(wrong), f"swapped: {length} bytes at {first} and {second}")
    flips = chance.choice((1, 10, 100))
    reach = chance.choice((len(content), min(len(content), 1000)))  # headers more often
    for _ in range(flips):
        wrong[chance.randrange(reach)] ^= 1 << chance.randrange(8)
    return Damaged(bytes(wrong), f"flipped: {flips} bits in the first {reach} bytes")


def variants(clip: Clip, folder: Path) -> Iterator[Damaged]:
    """Yield the damaged variants of a file."""
    content = write(clip, folder).read_bytes()
    chance = random.Random(clip.name)
    for _ in range(PER_CONTAINER):
        yield damage(content, chance)


@dataclass(frozen=True)
class Target:
    """The server and what it is posted besides the damaged file."""

    url: str
    work: Path
    pid: int
    video: str
    audio: str

    def post(self, clip: Clip, content: bytes) -> httpx.Response:
        """Post a file as the video or the recording."""
        body = {"video_base64": self.video, "audio_base64": self.audio}
        field = "video_base64" if clip.pictures else "audio_base64"
        body[field] = base64.b64encode(content).decode("ascii")
        return httpx.post(f"{self.url}/predict", json=body, headers=AUTH, timeout=60)

    def peak_bytes(self) -> int | None:
        """Return the most memory the server had; None where the system does not tell."""
        status = Path(f"/proc/{self.pid}/status")
        if not status.exists():
            return None
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024


@contextmanager
def starting(folder: Path) -> Iterator[Target]:
    """Run a server whose files are in ``folder``; it must write no traceback."""
    log = folder / "log.txt"
    command = [sys.executable, "-m", "tests.server.square_server", str(folder)]
    with log.open("wb") as output:
        server = subprocess.Popen(
            command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=output, text=True
        )
    assert server.stdout is not None
    try:
        url = server.stdout.readline().strip()
        video = as_base64(write_clip(folder / "good.mp4"))
        audio = as_base64(write_speech(folder / "good.wav"))
        yield Target(url, folder / "work", server.pid, video, audio)
        assert server.poll() is None
        assert "Traceback" not in log.read_text()
    finally:
        server.kill()
        server.communicate()


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with starting(tmp_path_factory.mktemp("server")) as started:
        yield started


@pytest.mark.processes
@pytest.mark.parametrize("clip", CONTAINERS, ids=lambda clip: clip.name)
def test_damaged_files_are_read_or_refused(clip: Clip, target: Target, tmp_path: Path) -> None:
    refused = 0
    for variant in variants(clip, tmp_path):
        response = target.post(clip, variant.content)
        assert response.status_code == 200 or 400 <= response.status_code < 500, (
            f"{variant.how}: {response.text[:300]}"
        )
        assert "Traceback" not in response.text
        assert str(target.work) not in response.text
        if response.status_code != 200:
            refused += 1
            error = ErrorResponse.model_validate(response.json())
            assert error.status_code == response.status_code
        assert files_in(target.work) == []
    assert refused < PER_CONTAINER
    assert target.post(clip, write(clip, tmp_path).read_bytes()).status_code == 200
    peak = target.peak_bytes()
    assert peak is None or peak < MOST_BYTES


def main() -> None:
    """Print what was done to each file and what the server answered."""
    with tempfile.TemporaryDirectory() as folder, starting(Path(folder)) as target:
        for clip in CONTAINERS:
            for variant in variants(clip, Path(folder)):
                response = target.post(clip, variant.content)
                answer = response.json().get("message", "read")
                sys.stdout.write(f"{clip.name:5} {variant.how:45} {answer}\n")
        sys.stdout.write(f"peak memory {(target.peak_bytes() or 0) / 2**20:.0f} MiB\n")


if __name__ == "__main__":
    main()

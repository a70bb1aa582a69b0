"""The calls that README and pages show, run as they are against a real server and worker."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import av
import httpx
import pytest

from latentsync.server.app import build_app
from latentsync.server.worker_supervisor import running_worker
from tests.server.live import (
    REAL_WORKER,
    REPOSITORY,
    serving,
    settings_for,
    wait_until,
    worker_command,
)

KEY = "my-key"  # as the pages have it
ADDRESS = "http://127.0.0.1:8000"
DEMO_FRAMES = 161  # with the speech's length
SEGMENTS_FRAMES = 150  # with the video's

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(
        not (shutil.which("curl") and shutil.which("bash")), reason="needs bash and curl"
    ),
]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    settings = settings_for(tmp_path_factory.mktemp("server"), api_keys=(KEY,), engine="draft")
    with (
        running_worker(worker_command(settings, "w", REAL_WORKER)),
        serving(build_app(settings)) as url,
    ):
        wait_until(lambda: httpx.get(f"{url}/ready").status_code == 200, timeout_s=120)
        yield url


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a folder in which the files of examples are where they are in the repository."""
    (tmp_path / "assets").symlink_to(REPOSITORY / "assets")
    return tmp_path


def block(page: str, language: str, part: str) -> str:
    """Return the one fenced block of a page that contains ``part``."""
    text = (REPOSITORY / page).read_text("utf-8")
    found = re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    [one] = [block for block in found if part in block]
    return str(one)


def run(folder: Path, url: str, program: list[str], script: str) -> str:
    """Run a block in ``folder`` against the server at ``url`` and return what it prints."""
    own = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "LATENTSYNC_API_KEY": KEY,
        "LATENTSYNC_URL": url,
        "LATENTSYNC_ENGINE": "draft",
        "AUTH": f"Authorization: Bearer {KEY}",
        "API": f"{url}/v1",
    }
    done = subprocess.run(
        [*program, script.replace(ADDRESS, url)],
        cwd=folder,
        env={**os.environ, **own},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def bash(folder: Path, url: str, script: str) -> str:
    return run(folder, url, ["bash", "-euc"], script)


def python(folder: Path, url: str, script: str) -> str:
    return run(folder, url, [sys.executable, "-c"], script)


def check_video(path: Path, frames: int = DEMO_FRAMES) -> None:
    """Decode every frame and all of the sound."""
    with av.open(path) as container:
        assert sum(1 for _ in container.decode(video=0)) == frames
    with av.open(path) as container:
        assert sum(frame.samples for frame in container.decode(audio=0)) > 0


@pytest.mark.parametrize(
    ("page", "part", "output"),
    [
        ("README.md", "--next", "result.mp4"),
        ("CURL_TEST_GUIDE.md", "--next", "output.mp4"),
        ("docs/jobs.md", "/events", "result.mp4"),
    ],
)
def test_curl_sends_files_and_saves_the_video(
    url: str, checkout: Path, page: str, part: str, output: str
) -> None:
    assert '"id"' in bash(checkout, url, block(page, "bash", part))
    check_video(checkout / output)


def test_curl_posts_base64_and_decodes_the_answer(url: str, checkout: Path) -> None:
    bash(checkout, url, block("CURL_TEST_GUIDE.md", "bash", "payload.json"))
    bash(checkout, url, block("CURL_TEST_GUIDE.md", "bash", "python3 -c 'import base64"))
    check_video(checkout / "output.mp4")


@pytest.mark.parametrize(
    ("page", "part"), [("README.md", "client.predict"), ("docs/jobs.md", "client.submit")]
)
def test_the_client_saves_the_video(url: str, checkout: Path, page: str, part: str) -> None:
    python(checkout, url, block(page, "python", part))
    check_video(checkout / "result.mp4")


@pytest.mark.parametrize(
    ("page", "part"), [("README.md", "latentsync run"), ("docs/jobs.md", "latentsync submit")]
)
def test_the_command_line_saves_the_video(url: str, checkout: Path, page: str, part: str) -> None:
    bash(checkout, url, block(page, "bash", part))
    check_video(checkout / "result.mp4")


def test_segments_make_the_same_video_by_every_way(url: str, checkout: Path) -> None:
    made = []
    for runs, language, part in (
        (bash, "bash", "curl"),
        (python, "python", "Segment"),
        (bash, "bash", "latentsync run"),
    ):
        runs(checkout, url, block("docs/segments.md", language, part))
        check_video(checkout / "result.mp4", SEGMENTS_FRAMES)
        made.append((checkout / "result.mp4").read_bytes())
    assert made[0] == made[1] == made[2]

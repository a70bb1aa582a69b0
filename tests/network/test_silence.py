"""Nothing here says anything to anybody else: every kind of process, watched for 90 seconds.

All of them run at the same time, so that the waiting is paid for once.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import wave
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.demo_media import DEMO_AUDIO, DEMO_VIDEO
from tests.network import tracing
from tests.ports import free_port
from tests.server.live import AUTH, KEY, REPOSITORY, wait_until
from tests.weights.hub import running_hub
from tests.weights.tiny import publish

pytestmark = [pytest.mark.processes, pytest.mark.timeout(900)]

WATCHED_S = 90.0  # what reports now and then does so within that
_READY_S = 300.0
_REFERENCE = re.compile(r"""(?:src|href)=["']?(?:https?:)?//([^"'/> ]+)""")
_PLATFORMS = "import sys, time, main, modal_app; time.sleep(float(sys.argv[1]))"
_MIRROR = """
import sys
from latentsync.settings import Settings
from latentsync.weights.ensure import ensure
from tests.weights.tiny import tiny_catalog
url, folder = sys.argv[1:]
settings = Settings(weights_dir=folder, weights_mirror=url)
print(ensure(("latentsync-1.6/unet",), settings=settings, catalog=tiny_catalog(url)))
"""


class Watch:
    """Programs that run under watch, in a home and with folders of their own.

    Args:
        folder: for all that they write.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._running.values():
            process.kill()
            process.wait()

    def start(self, name: str, *arguments: str, **settings: str) -> None:
        """Start ``python ARGUMENTS`` in the repository."""
        home = self.home(name)
        home.mkdir(parents=True)
        own = {
            "HOME": str(home),
            "LATENTSYNC_API_KEYS": KEY,
            "LATENTSYNC_ENGINE": "draft",
            "LATENTSYNC_MIN_FREE_BYTES": "0",
            "LATENTSYNC_WORK_DIR": str(home / "work"),
        }
        with self.log(name).open("wb") as log:
            self._running[name] = subprocess.Popen(
                tracing.watching([sys.executable, *arguments], self._trace(name)),
                cwd=REPOSITORY,
                env={**tracing.talkative(os.environ), **own, **settings},
                stdout=log,
                stderr=log,
            )

    def home(self, name: str) -> Path:
        """Return the home folder of a program."""
        return self._folder / name / "home"

    def log(self, name: str) -> Path:
        """Return the file of all that a program prints."""
        return self._folder / name / "log"

    def serve(self, name: str, *options: str) -> str:
        """Start a server and return its address."""
        port = str(free_port())
        self.start(name, "-m", "latentsync", "serve", "--port", port, *options)
        return f"http://127.0.0.1:{port}"

    def wait_until_ready(self, name: str, url: str) -> None:
        """Return when a server has a worker."""

        def is_ready() -> bool:
            assert self._running[name].poll() is None, self.log(name).read_text()
            try:
                return httpx.get(f"{url}/ready", timeout=_READY_S).status_code == 200
            except httpx.TransportError:
                return False

        wait_until(is_ready, timeout_s=_READY_S)

    def end(self) -> dict[str, list[str]]:
        """Stop what still serves, wait for the rest; return whom each program tried to reach."""
        for name, process in self._running.items():
            if name.startswith("serve"):
                process.terminate()
            assert process.wait(timeout=_READY_S) == 0, self.log(name).read_text()
            tracing.wait_for_end(self._trace(name))
        return {name: list(map(str, tracing.contacts(self._trace(name)))) for name in self._running}

    def _trace(self, name: str) -> Path:
        return self._folder / name / "trace"


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Watch]:
    """Where programs are started."""
    if reason := tracing.why_not():
        pytest.skip(f"nothing can be watched here: {reason}")
    with Watch(tmp_path) as watch:
        yield watch


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    """The first second of the demo's speech."""
    target = tmp_path / "second.wav"
    with wave.open(str(DEMO_AUDIO)) as whole, wave.open(str(target), "wb") as written:
        written.setparams(whole.getparams())
        written.writeframes(whole.readframes(whole.getframerate()))
    return target


def test_no_process_reaches_beyond_loopback(watch: Watch, speech: Path, tmp_path: Path) -> None:
    with ExitStack() as lent:
        hub = lent.enter_context(running_hub())
        publish(hub)
        ends_at = time.monotonic() + WATCHED_S
        rest = str(WATCHED_S)
        url, page_url = watch.serve("serve"), watch.serve("serve --ui", "--ui")
        networks = str(tmp_path / "networks")
        Path(networks).mkdir()
        watch.start("networks", "-m", "tests.network.every_network", networks, rest)
        watch.start("platforms", "-c", _PLATFORMS, rest)
        watch.start("mirror", "-c", _MIRROR, hub.url, str(tmp_path / "weights"))
        watch.start("demo", "demo/demo.py")
        media = (f"--video={DEMO_VIDEO}", f"--audio={speech}", "--sync-mode=cut_off")
        run_here = ("-m", "latentsync", "run", *media, f"--output={tmp_path / 'here.mp4'}")
        watch.start("run", *run_here)
        preview = ("preview", str(DEMO_VIDEO), "0.5", str(tmp_path / "preview.jpg"))
        watch.start("preview", "-m", "latentsync.ui.analysis", *preview)
        for name, address in (("serve", url), ("serve --ui", page_url)):
            watch.wait_until_ready(name, address)
            result = str(tmp_path / f"{name}.mp4")
            ask = ("predict", f"--url={address}", f"--token={KEY}", *media, f"--output={result}")
            watch.start(f"predict from {name}", "-m", "latentsync", *ask)
        look_at_pages(url, page_url)
        wait_until(lambda: time.monotonic() > ends_at, timeout_s=2 * WATCHED_S)
        found = watch.end()
    assert [f"{name}: {contact}" for name in found for contact in found[name]] == []
    assert (tmp_path / "serve.mp4").stat().st_size > 0
    assert (tmp_path / "serve --ui.mp4").stat().st_size > 0
    # onnxruntime's telemetry keeps a name of the machine and a queue there.
    assert [name for name in found if (watch.home(name) / ".cache/Microsoft").exists()] == []


def look_at_pages(url: str, page_url: str) -> None:
    """Fetch what browsers are shown; they are led to no other host by it."""
    with httpx.Client(headers=AUTH, timeout=_READY_S) as browser:
        for path in ("/docs", "/redoc", "/openapi.json", "/v1/models", "/metrics"):
            answer = browser.get(url + path)
            assert (path, answer.status_code) == (path, 200)
            assert _REFERENCE.findall(answer.text) == []
        browser.post(f"{page_url}/page/key", data={"key": KEY})
        page = browser.get(f"{page_url}/")
        assert page.status_code == 200
        loaded = re.findall(r'(?:src|href)="(\.?/[^"]+)"', page.text)
        assert loaded
        for path in (*loaded, "/config"):
            browser.get(page_url + path.removeprefix("."))

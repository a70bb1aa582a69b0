"""A hub with small files, settings that lead to it, and no pause between tries."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import huggingface_hub.file_download  # reads the environment when it is loaded: before any test
import pytest

from latentsync.settings import Settings
from latentsync.weights.catalog import Catalog
from latentsync.weights.ensure import ensure
from latentsync.weights.progress import Retries
from tests.server.live import REPOSITORY
from tests.weights.hub import Hub, running_hub
from tests.weights.tiny import publish, tiny_catalog

AT_ONCE = Retries(tries=3, base_s=0.0)
_NOBODY = 65534


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("LATENTSYNC_", "HF_", "TORCH_", "XDG_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_TOKEN", "hf_token_of_the_tests")


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as hub:
        publish(hub)
        yield hub
    huggingface_hub.close_session()  # it keeps connections for a next call that never comes


@pytest.fixture
def dead_url() -> Iterator[str]:
    """The address of a port that is taken, so nobody else gets it, and refuses every connection."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{silent.getsockname()[1]}"


@pytest.fixture
def catalog(hub: Hub) -> Catalog:
    return tiny_catalog(hub.url)


@pytest.fixture
def settings(hub: Hub) -> Iterator[Settings]:
    # Not in tmp_path, which is closed to the other user that read_only turns root into.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Settings(weights_dir=Path(folder) / "weights", weights_mirror=hub.url)


@pytest.fixture
def fetch_file(settings: Settings, catalog: Catalog) -> Callable[..., dict[str, Path]]:
    """``ensure`` with the test's hub, without pauses; call it with names and settings."""

    def call(*names: str, **changes: Any) -> dict[str, Path]:
        given = {"settings": settings, "catalog": catalog, "retries": AT_ONCE, **changes}
        return ensure(names, **given)

    return call


@pytest.fixture
def read_only(settings: Settings) -> Iterator[Callable[[Path], None]]:
    """Take from a folder, and all below it, the right to be written to, for root as well."""
    locked: list[Path] = []

    def lock(folder: Path) -> None:
        for below in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
            below.chmod(0o555)
            locked.append(below)
        if os.getuid() == 0:
            os.seteuid(_NOBODY)

    yield lock
    if os.getuid() == 0:
        os.seteuid(0)
    for folder in locked:
        folder.chmod(0o755)


@pytest.fixture
def start_process(hub: Hub, settings: Settings) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Start another process that brings the UNet here and prints its size."""
    code = (
        "import sys; from pathlib import Path; from latentsync.settings import Settings; "
        "from latentsync.weights.ensure import ensure; "
        "from tests.weights.tiny import tiny_catalog; url, folder = sys.argv[1:]; "
        "settings = Settings(weights_dir=folder, weights_mirror=url); "
        "name = 'latentsync-1.6/unet'; "
        "paths = ensure((name,), settings=settings, catalog=tiny_catalog(url)); "
        "print(paths[name].stat().st_size)"
    )
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", code, hub.url, str(settings.weights_dir)]
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()

"""A Postgres of one's own, from the package of the distribution."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.ports import free_port

_USER = "postgres"  # who runs it where the tests run as root, whom Postgres refuses


@contextmanager
def postgres() -> Iterator[str]:
    """Run a server with an empty database; yields the address for ``LATENTSYNC_DATABASE_URL``."""
    programs = _programs()
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    try:
        if os.getuid() == 0:
            shutil.chown(folder, _USER)
        data, port = folder / "data", free_port()
        _run(programs / "initdb", "-D", data, "-U", _USER, "-A", "trust", "-E", "UTF8", "--no-sync")
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"
        control, log = programs / "pg_ctl", folder / "log"
        _run(control, "-D", data, "-o", options, "-l", log, "-w", "start")
        try:
            yield f"postgresql+psycopg://{_USER}@127.0.0.1:{port}/postgres"
        finally:
            _run(control, "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder)


def _programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("Postgres is not installed: apt-get install postgresql")
    if os.getuid() == 0:
        try:
            pwd.getpwnam(_USER)
        except KeyError:
            pytest.skip(f"Postgres does not run as root, and there is no user {_USER}")
    return found[-1].parent


def _run(*command: object) -> None:
    identity: dict[str, Any] = {}
    if os.getuid() == 0:
        identity = {"user": _USER, "group": pwd.getpwnam(_USER).pw_gid, "extra_groups": []}
    # pg_ctl's server keeps what it inherits, so its output must not be a pipe that is read.
    subprocess.run(
        [str(part) for part in command],
        check=True,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        **identity,
    )

"""A folder that cannot be written to, from the start or later: said once, and nothing is lost."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx
import pytest

from latentsync.server.app import build_app
from tests.jobs import square_runner
from tests.jobs.farm import farm
from tests.server.live import AUTH, process, serving, settings_for, small_body

Spoil = Callable[[Path], AbstractContextManager[None]]


@contextmanager
def in_its_place(folder: Path) -> Iterator[None]:
    """Put a file where the folder was."""
    kept = folder.with_name("kept")
    folder.rename(kept)
    folder.touch()
    try:
        yield
    finally:
        folder.unlink()
        kept.rename(folder)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Make a folder read-only for the block, even for root and with open files."""
    mount("--bind", str(folder), str(folder))
    try:
        mount("-o", "remount,bind,ro", str(folder))
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip("only a privileged user may make a folder read-only")


def check_refused(url: str, folder: Path, code: str) -> None:
    """Check that every contract refuses requests with files, and stores nothing."""
    body = small_body(folder / "media")
    for path in ("/predict", "/v1/predictions"):
        answer = httpx.post(f"{url}{path}", json=body, headers=AUTH, timeout=60)
        assert (answer.status_code, answer.json()["code"]) == (503, code), answer.text
        assert str(folder) not in answer.text
        assert answer.headers["retry-after"]
    video = (folder / "media" / "clip.mp4").read_bytes()
    for path, request in (
        ("/v1/uploads", {"content": video}),
        ("/v1/predictions", {"files": {"video": video, "audio": video}}),
    ):
        answer = httpx.post(f"{url}{path}", headers=AUTH, timeout=60, **request)
        assert (answer.status_code, answer.json()["code"]) == (503, code), answer.text
    assert httpx.get(f"{url}/v1/predictions", headers=AUTH).json()["predictions"] == []


def test_a_removed_work_folder_is_reported_by_every_contract(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    with serving(build_app(settings)) as url:
        with in_its_place(settings.work_dir):
            check_refused(url, tmp_path, "FOLDER_UNUSABLE")
        assert [path for path in (tmp_path / "data" / "files").rglob("*") if path.is_file()] == []
        body = small_body(tmp_path / "media")
        assert httpx.post(f"{url}/v1/predictions", json=body, headers=AUTH).status_code == 202


def test_a_read_only_work_folder_is_reported_by_every_contract(
    tmp_path: Path,
) -> None:
    settings = settings_for(tmp_path)
    with serving(build_app(settings)) as url:
        body = small_body(tmp_path / "media")
        wrong = {**body, "audio_base64": "AAAA"}  # makes the process's own folder there
        assert httpx.post(f"{url}/v1/predictions", json=wrong, headers=AUTH).status_code == 422
        with read_only(settings.work_dir):
            check_refused(url, tmp_path, "FOLDER_UNUSABLE")
        assert httpx.post(f"{url}/v1/predictions", json=body, headers=AUTH).status_code == 202


def test_files_that_cannot_be_stored_are_reported_by_every_contract(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    with serving(build_app(settings)) as url, read_only(tmp_path / "data" / "files"):
        check_refused(url, tmp_path, "STORAGE_UNAVAILABLE")


@pytest.mark.processes
def test_a_read_only_folder_keeps_a_server_from_starting(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    with read_only(disk):
        for name in ("work_dir", "data_dir"):
            variables = {f"LATENTSYNC_{name.upper()}": str(disk / "new")}
            with process(
                "-m", "latentsync", "serve", "--no-auth", "--port=0", **variables
            ) as server:
                said, _ = server.communicate(timeout=60)
                assert server.returncode == 3
            assert said == (
                f"Error: {disk}/new cannot be used: Read-only file system. "
                f"LATENTSYNC_{name.upper()} names another folder.\n"
            )


@pytest.mark.processes
@pytest.mark.skipif(os.getuid() != 0, reason="only root may change its user")
def test_a_folder_without_permission_keeps_a_worker_from_starting(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o555)
    code = (
        "import os, sys; from latentsync.__main__ import main; "
        "import latentsync.cli.app, latentsync.worker.worker; "
        "os.setgid(65534); os.setuid(65534); sys.argv[1:] = ['worker']; main()"
    )
    variables = {
        "LATENTSYNC_WORK_DIR": str(tmp_path / "closed" / "work"),
        "LATENTSYNC_DATA_DIR": str(tmp_path / "data"),
        "HOME": str(tmp_path),
    }
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(folder.stat().st_mode | 0o055)
    with process("-c", code, **variables) as worker:
        said, _ = worker.communicate(timeout=60)
    assert worker.returncode == 3, said
    assert said.startswith(f"Error: {tmp_path}/closed/work cannot be used: Permission denied.")
    assert said.count("\n") == 1


@pytest.mark.processes
@pytest.mark.parametrize("spoiled", [in_its_place, read_only])
def test_a_worker_waits_until_its_work_folder_can_be_used_again(
    spoiled: Spoil, tmp_path: Path
) -> None:
    with farm(tmp_path) as jobs:
        jobs.start()
        jobs.wait_until_ended([jobs.submit()])
        refused = jobs.submit(square_runner.GATED)
        jobs.wait_for(lambda: jobs.job(refused).stage == "generate")
        waiting = jobs.submit()
        with spoiled(jobs.settings.work_dir):
            jobs.open_gate()
            jobs.wait_for(lambda: "the working folder cannot be used" in jobs.log())
            assert not jobs.job(waiting).status.is_final
        ended = jobs.wait_until_ended([refused, waiting])
        assert {job.status for job in ended} == {"succeeded"}, jobs.log()
        assert "Traceback" not in jobs.log()

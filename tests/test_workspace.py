from __future__ import annotations

import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from latentsync.errors import DiskFull, FolderUnusable
from latentsync.workspace import (
    remove_own_folders,
    sweep,
    take_lock,
    translate_disk_full,
    working_folder,
)

WORKER = """
import sys
from pathlib import Path
from latentsync.workspace import working_folder
with working_folder(Path(sys.argv[1])) as folder:
    (folder / "half a video").write_bytes(b"x")
    print(folder, flush=True)
    sys.stdin.read()
"""


def start_worker(root: Path) -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def finish(process: subprocess.Popen[str]) -> None:
    process.communicate(timeout=10)


def test_a_folder_is_private_and_removed_with_its_content(tmp_path: Path) -> None:
    with working_folder(tmp_path / "new" / "root") as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
        (folder / "deep").mkdir()
        (folder / "deep" / "file").touch()
    assert not folder.exists()


def test_a_folder_is_removed_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), working_folder(tmp_path) as folder:
        raise KeyError
    assert not folder.exists()


def test_requests_at_once_have_folders_of_their_own(tmp_path: Path) -> None:
    def use(number: int) -> Path:
        with working_folder(tmp_path) as folder:
            (folder / "video").write_text(str(number))
            assert (folder / "video").read_text() == str(number)
        return folder

    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(use, range(40)))
    assert len(set(folders)) == 40
    assert not any(folder.exists() for folder in folders)


def test_what_a_killed_process_left_is_swept_up(tmp_path: Path) -> None:
    process, folder = start_worker(tmp_path)
    process.send_signal(signal.SIGKILL)
    finish(process)
    assert (folder / "half a video").exists()
    assert sweep(tmp_path) == 1
    assert list(tmp_path.iterdir()) == []
    assert sweep(tmp_path) == 0


def test_living_processes_are_never_swept(tmp_path: Path) -> None:
    process, folder = start_worker(tmp_path)
    with working_folder(tmp_path) as mine:
        assert sweep(tmp_path) == 0
        assert mine.is_dir()
        assert (folder / "half a video").exists()
    finish(process)
    assert not folder.exists()


def test_a_process_that_ends_well_leaves_nothing(tmp_path: Path) -> None:
    process, _ = start_worker(tmp_path)
    finish(process)
    assert list(tmp_path.iterdir()) == []


def test_a_forked_child_neither_removes_nor_keeps_its_parents_folder(tmp_path: Path) -> None:
    script = f"""
import os, sys, time
from pathlib import Path
from latentsync.workspace import working_folder
root = Path({str(tmp_path)!r})
with working_folder(root) as folder:
    child = os.fork()
    if child == 0:
        with working_folder(root) as own:
            assert own.parent != folder.parent, "the child uses its parent's folder"
        print(folder.is_dir(), flush=True)
        sys.stdin.read()
        os._exit(0)
    time.sleep(60)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    process.kill()  # the child lives on until its input ends
    process.wait(timeout=10)
    assert sweep(tmp_path) >= 1  # although the child lives on
    process.stdin.close()
    process.stdout.close()


def test_sweeping_a_root_that_is_not_there_is_fine(tmp_path: Path) -> None:
    assert sweep(tmp_path / "nowhere") == 0


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_no_space_left_becomes_disk_full(number: int) -> None:
    with pytest.raises(DiskFull, match="no space"), translate_disk_full():
        raise OSError(number, os.strerror(number))


def test_a_really_full_device_becomes_disk_full() -> None:
    with (
        pytest.raises(DiskFull),
        translate_disk_full(),
        Path("/dev/full").open("wb", buffering=0) as file,
    ):
        file.write(b"x")


def test_other_errors_pass_through() -> None:
    with pytest.raises(PermissionError), translate_disk_full():
        raise PermissionError(errno.EACCES, "no")


def test_a_root_that_cannot_be_used_names_the_setting_and_no_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with (
        pytest.raises(FolderUnusable, match="LATENTSYNC_WORK_DIR") as caught,
        working_folder(tmp_path / "file" / "inside"),
    ):
        pass
    assert str(tmp_path) not in caught.value.message


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give a folder away")
def test_a_root_of_another_user_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    os.chown(root, 65534, 65534)
    with pytest.raises(FolderUnusable, match="LATENTSYNC_WORK_DIR"), working_folder(root):
        pass


def test_a_folder_removed_meanwhile_leaves_no_lock_behind(tmp_path: Path) -> None:
    with working_folder(tmp_path) as folder:
        first = folder.parent
    shutil.rmtree(first)
    with working_folder(tmp_path) as folder:
        assert folder.parent != first
        assert sorted(tmp_path.iterdir()) == [folder.parent, folder.parent.with_suffix(".lock")]


def test_a_process_that_ends_at_once_can_remove_its_folders_before(tmp_path: Path) -> None:
    with working_folder(tmp_path) as folder:
        (folder / "half a video").touch()
        remove_own_folders()
        assert list(tmp_path.iterdir()) == []


def test_a_block_that_fails_with_its_folder_says_that_it_is_the_folder(tmp_path: Path) -> None:
    root = tmp_path / "root"

    def write_to_what_is_gone(folder: Path) -> None:
        root.rename(tmp_path / "elsewhere")
        (folder / "file").write_bytes(b"x")

    with (
        pytest.raises(FolderUnusable, match="LATENTSYNC_WORK_DIR"),
        working_folder(root) as folder,
    ):
        write_to_what_is_gone(folder)
    shutil.rmtree(tmp_path / "elsewhere")


def test_a_block_that_fails_by_itself_fails_with_its_own_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), working_folder(tmp_path) as folder:
        (folder / "none").read_bytes()


def test_what_cannot_be_swept_is_said_and_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "p-1-x.lock").mkdir()  # which cannot be opened as a file
    assert sweep(tmp_path) == 0
    assert "Could not remove" in caplog.text


def test_the_lock_of_a_folder_that_could_not_be_removed_leads_the_next_sweep_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with working_folder(tmp_path), monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # as when it is in use
        remove_own_folders()
    assert len(list(tmp_path.glob("p-*.lock"))) == 1
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        assert sweep(tmp_path) == 0
    assert sweep(tmp_path) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_lock_has_one_holder_until_its_descriptor_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    first = take_lock(path)
    assert first is not None
    assert take_lock(path) is None
    os.close(first)
    second = take_lock(path)
    assert second is not None
    os.close(second)


def test_a_lock_on_a_replaced_file_is_not_the_lock_of_its_path(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    held = take_lock(path)
    assert held is not None
    path.unlink()
    fresh = take_lock(path)
    assert fresh is not None
    os.close(held)
    assert take_lock(path) is None
    os.close(fresh)


def test_a_lock_file_is_created_only_if_wanted(tmp_path: Path) -> None:
    assert take_lock(tmp_path / "x.lock", create=False) is None
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError):
        take_lock(tmp_path / "missing" / "x.lock")


def test_a_lock_keeps_the_content_and_permissions_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "part"
    path.write_bytes(b"first half")
    path.chmod(0o640)
    descriptor = take_lock(path, mode=0o600)
    assert descriptor is not None
    os.close(descriptor)
    assert path.read_bytes() == b"first half"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640

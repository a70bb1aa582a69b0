"""The file store, in a folder and in fsspec's store in memory."""

from __future__ import annotations

import errno
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from latentsync.errors import DiskFull, StorageUnavailable
from latentsync.jobs.storage import Storage


@pytest.fixture(params=["folder", "memory"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    if request.param == "folder":
        yield Storage(str(tmp_path / "store"))
        return
    url = f"memory://{uuid.uuid4().hex}"
    yield Storage(url)
    memory = fsspec.filesystem("memory")
    if memory.exists(url):
        memory.rm(url, recursive=True)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(b"0123456789")
    return path


def test_what_is_stored_can_be_read_at_any_place(files: Storage, source: Path) -> None:
    files.put(source, "results/one/file.mp4")
    assert files.exists("results/one/file.mp4")
    assert files.size_bytes("results/one/file.mp4") == 10
    with files.open("results/one/file.mp4") as opened:
        opened.seek(4)
        assert opened.read(3) == b"456"


def test_a_stored_file_is_lent_as_a_local_one(files: Storage, source: Path, tmp_path: Path) -> None:
    files.put(source, "a/b")
    with files.as_local_file("a/b", tmp_path) as path:
        assert path.read_bytes() == b"0123456789"
    assert files.exists("a/b")
    with pytest.raises(FileNotFoundError), files.as_local_file("a/none", tmp_path):
        pass


def test_what_lies_below_a_folder_is_dated_and_counted(files: Storage, source: Path) -> None:
    before = time.time() - 5
    files.put(source, "a/one/file")
    files.put(source, "a/two")
    below = files.below("a")
    assert set(below) == {"one", "two"}
    assert all(before < changed_at < time.time() + 5 for changed_at in below.values())
    assert (files.size_below("a"), files.size_below("a", name="file")) == (20, 10)
    assert (files.below("none"), files.size_below("none")) == ({}, 0)


def test_a_copy_is_as_young_as_the_copying_and_leaves_the_original_as_old_as_it_is(
    tmp_path: Path, source: Path
) -> None:
    files = Storage(str(tmp_path / "store"))
    files.put(source, "uploads/one/owner")
    for path in (tmp_path / "store" / "uploads" / "one" / "owner", tmp_path / "store/uploads/one"):
        os.utime(path, (1000, 1000))
    files.copy("uploads/one/owner", "inputs/one/video")
    assert files.below("inputs")["one"] > time.time() - 60
    assert files.below("uploads") == {"one": 1000}


def test_removing_takes_files_and_folders_and_minds_nothing(files: Storage, source: Path) -> None:
    for key in ("a/one/file", "a/two/file", "b"):
        files.put(source, key)
    for key in ("a/one", "b", "none", "none/at/all"):
        files.remove(key)
    assert set(files.below("a")) == {"two"}
    assert not files.exists("b")


@pytest.mark.parametrize(
    "key", ["", "..", "a/../b", "/etc/passwd", "a//b", "a/..\\b", "./a", "*", "a/?"]
)
def test_a_key_never_leaves_the_store(files: Storage, source: Path, key: str) -> None:
    for act in (files.exists, files.open, files.size_bytes, files.remove, files.below):
        with pytest.raises(FileNotFoundError):
            act(key)
    with pytest.raises(FileNotFoundError):
        files.put(source, key)


def test_a_full_disk_leaves_nothing_behind(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = Storage(str(tmp_path / "store"))

    def refuse(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", refuse)
        with pytest.raises(DiskFull):
            files.put(source, "a/b")
    assert files.below("a") == {}
    files.put(source, "a/b")
    assert files.exists("a/b")


def test_only_this_user_may_look_into_the_store(tmp_path: Path) -> None:
    Storage(str(tmp_path / "store"))
    assert (tmp_path / "store").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("url", ["nonsense://bucket/folder", "s4://bucket"])
def test_an_address_of_no_known_kind_is_told_at_once(url: str) -> None:
    with pytest.raises(StorageUnavailable, match=f"LATENTSYNC_STORAGE_URL begins with {url[:2]}"):
        Storage(url)

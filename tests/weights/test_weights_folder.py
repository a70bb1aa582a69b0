"""Folders for weights that are full, read-only, without locks, or no folders at all."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from latentsync.errors import DiskFull, WeightsMissing
from latentsync.settings import Settings
from tests.weights.hub import Hub
from tests.weights.tiny import ENGINE_FILES, UNET, Ensure, content_of, everything_in

pytestmark = pytest.mark.processes


def test_a_disk_without_room_is_seen_before_the_first_byte(
    hub: Hub, fetch_file: Ensure, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")._replace(free=1234)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    needed = 256 * 1024 * 1024 + len(content_of(UNET)) + len(content_of("whisper-tiny"))
    with pytest.raises(DiskFull, match=f"need {needed} bytes .*1234 are free"):
        fetch_file(UNET, "whisper-tiny")
    assert hub.requests == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device")
def test_a_disk_that_fills_up_in_the_middle(fetch_file: Ensure, settings: Settings) -> None:
    folder = settings.weights_dir / "latentsync-1.6"
    folder.mkdir(parents=True)
    (folder / ".latentsync_unet.pt.part").symlink_to("/dev/full")
    with pytest.raises(DiskFull, match=f"{UNET} .*did not fit"):
        fetch_file(UNET)


def test_files_that_are_here_are_never_written_to(
    fetch_file: Ensure, settings: Settings, read_only: Callable[[Path], None]
) -> None:
    paths = fetch_file(*ENGINE_FILES)
    before = everything_in(settings.weights_dir)
    read_only(settings.weights_dir)
    assert fetch_file(*ENGINE_FILES) == paths
    assert everything_in(settings.weights_dir) == before


def test_a_baked_image_without_stamps_works(
    fetch_file: Ensure, settings: Settings, read_only: Callable[[Path], None]
) -> None:
    for name, path in fetch_file(*ENGINE_FILES).items():
        path.with_name(f".{path.name}.stamp").unlink()
        assert path.read_bytes() == content_of(name)
    before = everything_in(settings.weights_dir)
    read_only(settings.weights_dir)
    fetch_file(*ENGINE_FILES)
    assert everything_in(settings.weights_dir) == before


def test_whole_seconds_of_a_files_time_are_enough_for_its_stamp(
    fetch_file: Ensure, hub: Hub
) -> None:
    path = fetch_file(UNET)[UNET]
    stamp = path.with_name(f".{path.name}.stamp")
    seconds = path.stat().st_mtime_ns // 10**9
    os.utime(path, ns=(seconds * 10**9, seconds * 10**9))  # as images keep it
    before = stamp.stat().st_mtime_ns
    fetch_file(UNET)
    assert stamp.stat().st_mtime_ns == before


def test_a_folder_that_may_not_be_written_to_is_named(
    fetch_file: Ensure, settings: Settings, read_only: Callable[[Path], None]
) -> None:
    settings.weights_dir.mkdir()
    read_only(settings.weights_dir)
    with pytest.raises(WeightsMissing, match="latentsync_unet.pt .*LATENTSYNC_WEIGHTS_DIR") as told:
        fetch_file(UNET)
    assert str(settings.weights_dir) not in told.value.message


def test_a_filesystem_without_locks_will_do(
    fetch_file: Ensure, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert fetch_file(UNET)[UNET].read_bytes() == content_of(UNET)
    assert "has no locks" in caplog.text


def test_a_volume_that_tells_no_sizes_will_do(
    fetch_file: Ensure, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = shutil.disk_usage("/")._replace(total=0, used=0, free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: nothing)
    assert fetch_file(UNET)[UNET].read_bytes() == content_of(UNET)


def test_a_weights_folder_that_is_a_file_is_told(fetch_file: Ensure, settings: Settings) -> None:
    settings.weights_dir.write_text("not a folder")
    with pytest.raises(WeightsMissing, match=f"{UNET} cannot be stored at latentsync-1.6/"):
        fetch_file(UNET)

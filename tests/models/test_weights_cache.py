from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from latentsync.models import checkpoint as checkpoint_module
from latentsync.models.checkpoint import cache_path, read_cache, write_cache

CPU = torch.device("cpu")
HALF = torch.float16
STATE = {
    "conv.weight": torch.arange(54.0).reshape(2, 3, 3, 3).half(),
    "table": torch.arange(6.0).reshape(1, 2, 3).half(),
    "bias": torch.zeros(2).half(),
}


class DiskUsage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "latentsync_unet.pt"
    path.write_bytes(b"any checkpoint")
    return path


def test_what_was_written_is_read(checkpoint: Path) -> None:
    assert read_cache(checkpoint, HALF, CPU) is None
    assert write_cache(checkpoint, HALF, STATE)
    state = read_cache(checkpoint, HALF, CPU)
    assert state is not None
    assert state.keys() == STATE.keys()
    for name, value in STATE.items():
        assert torch.equal(state[name], value)
    assert state["conv.weight"].is_contiguous(memory_format=torch.channels_last)


def test_every_type_has_its_own_copy(checkpoint: Path) -> None:
    write_cache(checkpoint, HALF, STATE)
    assert read_cache(checkpoint, torch.bfloat16, CPU) is None


def test_a_copy_of_a_checkpoint_that_was_replaced_is_not_used(checkpoint: Path) -> None:
    write_cache(checkpoint, HALF, STATE)
    os.utime(checkpoint, ns=(1, 1))
    assert read_cache(checkpoint, HALF, CPU) is None
    write_cache(checkpoint, HALF, STATE)
    assert read_cache(checkpoint, HALF, CPU) is not None
    checkpoint.write_bytes(b"another one")
    os.utime(checkpoint, ns=(1, 1))
    assert read_cache(checkpoint, HALF, CPU) is None


@pytest.mark.parametrize("content", [b"", b"<html>", b"\x00" * 100])
def test_a_damaged_copy_is_not_used(
    checkpoint: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    cache_path(checkpoint, HALF).write_bytes(content)
    assert read_cache(checkpoint, HALF, CPU) is None
    assert "is written again" in caplog.text


def test_a_truncated_copy_is_not_used(checkpoint: Path) -> None:
    write_cache(checkpoint, HALF, STATE)
    copy = cache_path(checkpoint, HALF)
    copy.write_bytes(copy.read_bytes()[:-10])
    assert read_cache(checkpoint, HALF, CPU) is None


@pytest.mark.parametrize("culprit", ["save_file", "NamedTemporaryFile"])
def test_a_copy_that_cannot_be_written_is_only_reported(
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    culprit: str,
) -> None:
    def refuse(*_args: object, **_options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_module, culprit, refuse)
    with caplog.at_level(logging.WARNING):
        assert not write_cache(checkpoint, HALF, STATE)
    assert "No space left" in caplog.text
    assert list(checkpoint.parent.iterdir()) == [checkpoint]


def test_a_copy_leaves_room_for_what_matters_more(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    size_bytes = sum(value.nbytes for value in STATE.values())
    free_bytes = checkpoint_module._LEFT_FREE_BYTES + size_bytes
    for free, written in ((free_bytes - 1, False), (free_bytes, True)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: DiskUsage(10**15, 0, free))
        assert write_cache(checkpoint, HALF, STATE) is written
    assert f"{free_bytes - 1} are free" in caplog.text


def test_a_volume_that_tells_no_sizes_gets_a_copy(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: DiskUsage(0, 0, 0))
    assert write_cache(checkpoint, HALF, STATE)


def test_the_cache_has_the_permissions_of_the_checkpoint(checkpoint: Path) -> None:
    checkpoint.chmod(0o640)
    write_cache(checkpoint, HALF, STATE)
    assert cache_path(checkpoint, HALF).stat().st_mode & 0o777 == 0o640


def test_what_a_killed_start_left_is_removed_by_a_later_one(checkpoint: Path) -> None:
    name = cache_path(checkpoint, torch.float16).name
    old, new = (checkpoint.with_name(f".{name}.{end}") for end in ("killed", "at-work"))
    for left in (old, new):
        left.write_bytes(b"half a copy")
    os.utime(old, (1, 1))
    assert write_cache(checkpoint, torch.float16, {"a": torch.ones(1)})
    assert (old.exists(), new.exists()) == (False, True)

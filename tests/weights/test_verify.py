"""Verifying reads every byte, whatever the stamps say."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from latentsync.settings import Settings
from latentsync.weights.catalog import Catalog
from latentsync.weights.verify import Verdict, verify
from tests.weights.hub import Hub
from tests.weights.tiny import content_of, path_on_hub

Ensure = Callable[..., dict[str, Path]]
UNET, UNVERIFIED = "latentsync-1.6/unet", "latentsync-1.5/unet"


def flip_a_bit_unseen(path: Path) -> None:
    """Change one byte as a bad disk does: size and time stay."""
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_files_are_judged_one_by_one(
    fetch_file: Ensure, settings: Settings, catalog: Catalog
) -> None:
    paths = fetch_file(UNET, "whisper-tiny")
    flip_a_bit_unseen(paths["whisper-tiny"])
    sound, damaged, absent = verify(
        (UNET, "whisper-tiny", "vgg16"), settings=settings, catalog=catalog
    )
    assert (sound.present, sound.problem) == (True, None)
    assert damaged.problem is not None
    assert "sha256" in damaged.problem
    assert absent == Verdict("vgg16", present=False)


@pytest.mark.parametrize("name", [UNET, UNVERIFIED])
def test_what_was_found_damaged_is_fetched_again(
    hub: Hub, fetch_file: Ensure, settings: Settings, catalog: Catalog, name: str
) -> None:
    path = fetch_file(name)[name]
    flip_a_bit_unseen(path)
    assert fetch_file(name)[name].read_bytes() != content_of(name), "a stamp is believed"
    (verdict,) = verify((name,), settings=settings, catalog=catalog)
    assert verdict.problem is not None
    assert fetch_file(name)[name].read_bytes() == content_of(name)
    assert len(hub.gets(path_on_hub(name))) == 2


def test_a_file_without_a_stamp_gets_one(
    hub: Hub, fetch_file: Ensure, settings: Settings, catalog: Catalog
) -> None:
    path = fetch_file(UNET)[UNET]
    stamp = path.with_name(f".{path.name}.stamp")
    stamp.unlink()
    verify((UNET,), settings=settings, catalog=catalog)
    assert stamp.exists()


def test_progress_ends_with_the_whole_file(
    fetch_file: Ensure, settings: Settings, catalog: Catalog
) -> None:
    fetch_file(UNET)
    told = []
    verify((UNET,), settings=settings, catalog=catalog, on_progress=told.append)
    assert told[-1].done_bytes == told[-1].total_bytes == len(content_of(UNET))

"""What the catalog promises to the engines and to whoever reads licences."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from latentsync.errors import EngineUnavailable
from latentsync.settings import Settings
from latentsync.weights.catalog import CATALOG, HubFile, look_up, weights_for
from tests.server.live import REPOSITORY


def test_an_engine_reads_its_own_unet_and_what_both_share() -> None:
    settings = Settings(face_landmarks="insightface")
    shared = ("whisper-tiny", "sd-vae-ft-mse", "face-detector", "face-landmarks")
    for version in ("1.5", "1.6"):
        names = weights_for(f"latentsync-{version}", settings)
        assert names == (f"latentsync-{version}/unet", *shared)


def test_the_embedded_mesh_needs_no_face_networks() -> None:
    names = weights_for("latentsync-1.6", Settings(face_landmarks="mesh"))
    assert not {"face-detector", "face-landmarks"} & set(names)


def test_the_draft_engine_needs_nothing_and_others_do_not_exist() -> None:
    assert weights_for("draft", Settings()) == ()
    with pytest.raises(EngineUnavailable, match="no engine named 'latentsync-2'"):
        weights_for("latentsync-2", Settings())


def test_names_are_looked_up_once_each() -> None:
    assert look_up(("vgg16", "vgg16"), CATALOG) == [CATALOG["vgg16"]]


@pytest.mark.parametrize("file", CATALOG.values(), ids=lambda file: str(file.name))
def test_every_entry_is_whole(file) -> None:
    assert file.licence
    assert file.needed_by
    assert re.fullmatch(r"[\w.-]+(/[\w.-]+)*", file.path)
    assert file.size_bytes in file.sizes
    if file.sha256 is not None:
        assert re.fullmatch(r"[0-9a-f]{8}|[0-9a-f]{64}", file.sha256)
    if isinstance(file.source, HubFile) and file.name != "latentsync-1.5/unet":  # unverified
        assert re.fullmatch(r"[0-9a-f]{40}", file.source.revision)


def test_no_two_entries_share_a_place() -> None:
    assert len({(file.folder, file.path) for file in CATALOG.values()}) == len(CATALOG)


@pytest.mark.parametrize("value", ["hub.example", "ftp://hub.example", "http://a b"])
def test_a_mirror_that_is_no_address_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="weights_mirror"):
        Settings(weights_mirror=value)


def test_knowing_what_there_is_loads_nothing_heavy() -> None:
    code = "import sys, latentsync.weights.ensure, latentsync.weights.verify; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert not {"torch", "huggingface_hub", "diffusers", "numpy"} & set(done.stdout.split())

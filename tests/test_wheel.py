"""What an installed copy carries: the licence, the metadata, and the files read at run time."""

from __future__ import annotations

import email
import email.message
import tomllib
import zipfile
from pathlib import Path

import pytest
from hatchling import build

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)  # where a build backend is called
        name = build.build_wheel(str(folder))
    return zipfile.ZipFile(folder / name)


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> email.message.Message:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return email.message_from_bytes(wheel.read(name))


def test_a_wheel_carries_every_licence(
    wheel: zipfile.ZipFile, metadata: email.message.Message
) -> None:
    assert metadata["License-Expression"] == "Apache-2.0"
    files = metadata.get_all("License-File", [])
    assert "LICENSE" in files
    for name in files:
        (packed,) = (one for one in wheel.namelist() if one.endswith(f"/licenses/{name}"))
        assert wheel.read(packed) == (ROOT / name).read_bytes()


def test_the_licence_is_the_whole_text() -> None:
    text = (ROOT / "LICENSE").read_text("ascii")
    assert "Apache License\n                           Version 2.0, January 2004" in text
    for number in range(1, 10):
        assert f"\n   {number}. " in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert "Copyright 2026 The latentsync authors" in text
    assert "[yyyy]" not in text


def test_the_metadata_says_what_the_package_is(metadata: email.message.Message) -> None:
    assert metadata["Name"] == "latentsync"
    assert "The latentsync authors" in metadata["Author"]
    assert metadata["Keywords"]
    classifiers = metadata.get_all("Classifier", [])
    for version in ("3.11", "3.12", "3.13"):
        assert f"Programming Language :: Python :: {version}" in classifiers
    # The licence expression takes their place; an index refuses both at once.
    assert not [one for one in classifiers if one.startswith("License ::")]


def test_type_checkers_and_the_engine_find_their_files(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    assert "latentsync/py.typed" in names
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    for place in included.values():
        assert [name for name in names if name == place or name.startswith(f"{place}/")], place

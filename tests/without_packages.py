"""Packages that cannot be found, in this process's children or for one test."""

from __future__ import annotations

from pathlib import Path

import pytest

from latentsync.pipelines import requirements
from latentsync.schema.engines import ENGINES

NETWORKS = ENGINES["latentsync-1.6"].packages
_FINDER = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""


def children_without(
    folder: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...] = NETWORKS
) -> None:
    """Let no process that is started from now on find these packages."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_FINDER.format(names=set(names)))
    monkeypatch.setenv("PYTHONPATH", str(folder))


def hide(monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...] = NETWORKS) -> None:
    """Let this process not find these packages when it looks whether they are installed."""
    find = requirements.find_spec
    monkeypatch.setattr(
        requirements, "find_spec", lambda name: None if name in names else find(name)
    )

"""Recorded numbers that this package must reproduce.

``tests/golden`` holds a small part. Where LATENTSYNC_REFERENCE names a folder with the whole set
(golden/ and in it detector/), the same tests go through that too.
"""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path

import numpy as np

_reference = os.environ.get("LATENTSYNC_REFERENCE")
FOLDERS = [Path(__file__).parent / "golden"]
if _reference:
    FOLDERS.append(Path(_reference) / "golden")


@cache
def arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return dict(file)


def numbered(found: dict[str, np.ndarray], pattern: str) -> list[tuple[str, ...]]:
    """Return what the groups of ``pattern`` match, for every array with such a name."""
    matches = (re.fullmatch(pattern, name) for name in found)
    return [match.groups() for match in matches if match]

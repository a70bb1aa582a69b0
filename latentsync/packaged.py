"""Finds the files that come with the package: embedded networks and model configurations."""

from __future__ import annotations

from pathlib import Path

from latentsync.errors import EngineUnavailable

_PACKAGE = Path(__file__).resolve().parent
_ROOTS = (
    _PACKAGE / "packaged",  # in an installed wheel
    _PACKAGE.parent,  # in a checkout
)


def find_packaged(name: str) -> Path:
    """Return the path of a file such as ``"configs/draft.yaml"``.

    Raises:
        EngineUnavailable: it is missing, so this installation is broken.
    """
    for root in _ROOTS:
        if (root / name).is_file():
            return root / name
    raise EngineUnavailable(f"The file {name} of the package is missing; install again.")

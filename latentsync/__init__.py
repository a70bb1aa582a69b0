"""latentsync: the same video, with lips that say other speech."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from latentsync.client import Client, Prediction

__version__ = "0.1.0"

__all__ = ["Client", "Prediction", "__version__"]

# Public name -> module, imported on first use: `import latentsync` alone loads nothing heavy.
_LAZY = {"Client": "latentsync.client", "Prediction": "latentsync.client"}


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

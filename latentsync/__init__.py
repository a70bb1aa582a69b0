"""latentsync: the same video, with lips that say other speech."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from latentsync.client import AsyncClient, Client, Job, JobEvent, Prediction, Segment

__version__ = "0.1.0"

__all__ = ["AsyncClient", "Client", "Job", "JobEvent", "Prediction", "Segment", "__version__"]

# Public name -> module, imported on first use: `import latentsync` alone loads nothing heavy.
_LAZY = {name: "latentsync.client" for name in __all__ if not name.startswith("_")}


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

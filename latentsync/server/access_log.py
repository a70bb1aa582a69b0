"""uvicorn's log without the secret names of results: to read the log is not to download."""

from __future__ import annotations

import copy
import logging
import re
from typing import Any

from uvicorn.config import LOGGING_CONFIG

from latentsync.server.lipsync import RESULTS
from latentsync.server.tasks import OUTPUTS

_RESULT = re.compile(rf"((?:{OUTPUTS}|{RESULTS})/[^/?]+/)[^?]+")
_PATH = 2  # of a line's values: caller, method, path with query, version, status


class HideResults(logging.Filter):
    """Leaves of a result's address only whose it is: the name drawn for it is the secret."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the line; none is left out."""
        if isinstance(record.args, tuple) and len(record.args) > _PATH:
            values = list(record.args)
            values[_PATH] = _RESULT.sub(r"\1***", str(values[_PATH]))
            record.args = tuple(values)
        return True


def log_config() -> dict[str, Any]:
    """Return how uvicorn logs by default, with :class:`HideResults` on its line for each call."""
    config: dict[str, Any] = copy.deepcopy(LOGGING_CONFIG)
    config["filters"] = {"hide_results": {"()": HideResults}}
    config["loggers"]["uvicorn.access"]["filters"] = ["hide_results"]
    return config

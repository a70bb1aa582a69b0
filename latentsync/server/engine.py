"""The engine of this process: built once, off the event loop, while /health already answers."""

from __future__ import annotations

import logging
import time

from latentsync.errors import EngineUnavailable
from latentsync.pipelines.base import Pipeline, build_pipeline

logger = logging.getLogger(__name__)


class Engine:
    """Holds the pipeline from the moment it is ready.

    Args:
        name: which engine to build.
        pipeline: a pipeline that is built already, instead.
    """

    def __init__(self, name: str, pipeline: Pipeline | None = None) -> None:
        self._name = name
        self._pipeline = pipeline
        self._failed = False

    def build(self) -> None:
        """Build the pipeline; a failure is logged and answered by :meth:`pipeline` from then on."""
        if self._pipeline is not None:
            return
        started = time.perf_counter()
        try:
            self._pipeline = build_pipeline(self._name)
        except Exception:
            self._failed = True
            logger.exception("engine %s could not be built", self._name)
        else:
            seconds = time.perf_counter() - started
            logger.info("engine %s built in %.2f s", self._name, seconds)

    def pipeline(self) -> Pipeline:
        """Return the pipeline; raises EngineUnavailable while there is none."""
        if self._pipeline is not None:
            return self._pipeline
        if self._failed:
            raise EngineUnavailable(f"The engine {self._name} could not be built on this server.")
        raise EngineUnavailable(f"The engine {self._name} is being built.", retry_after_s=5)

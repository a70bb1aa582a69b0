"""The engines of this server: the default one is built while /health already answers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from copy import copy

from latentsync.errors import EngineUnavailable, LatentSyncError
from latentsync.monitor import never
from latentsync.pipelines.base import Pipeline
from latentsync.pipelines.engines import Engines

logger = logging.getLogger(__name__)


class Engine:
    """Knows whether the default engine is ready, and builds others when a request names them.

    Args:
        name: what the default engine is called, for messages.
        engines: where they come from.
    """

    def __init__(self, name: str, engines: Engines) -> None:
        self._name = name
        self._engines = engines
        self._default: Pipeline | None = None
        self._failure: LatentSyncError | None = None

    def build(self) -> None:
        """Build the default pipeline; a failure is logged and answered until a later try."""
        try:
            self._default = self._engines.get()
        except LatentSyncError as error:
            self._failure = error.with_traceback(None)
            logger.error("engine %s cannot run: %s", self._name, error.message)
        except Exception:
            self._failure = EngineUnavailable(
                f"The engine {self._name} could not be built on this server."
            )
            logger.exception("engine %s could not be built", self._name)

    def default(self) -> Pipeline:
        """Return the default pipeline; raises EngineUnavailable while there is none."""
        if self._default is not None:
            return self._default
        if self._failure is not None:
            # A new one each time: an error raised again and again holds on to all it ever met.
            raise copy(self._failure)
        raise EngineUnavailable(f"The engine {self._name} is being built.", retry_after_s=5)

    def require(self, name: str) -> None:
        """Raise EngineUnavailable where it shows, without building it, that it cannot run here."""
        self._engines.require(name)

    def pipeline(self, name: str | None, check: Callable[[], None] = never) -> Pipeline:
        """Return the pipeline of the engine called ``name``, or the default one.

        Called by runs, one at a time and off the event loop. The first request for another engine
        waits for its weights and its building; a default engine that could not be built is tried
        again, since what was missing may have come.

        Args:
            name: as in a request.
            check: called while weights are fetched; may raise to stop.

        Raises:
            EngineUnavailable: it cannot run here.
        """
        if name is not None:
            return self._engines.get(name, check)
        if self._default is None and self._failure is not None:
            self.build()
        return self.default()

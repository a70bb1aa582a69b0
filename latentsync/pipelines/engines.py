"""The engines of one process: each built on first use, then kept for all runs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock

from latentsync.monitor import never
from latentsync.pipelines.availability import survey_engines
from latentsync.pipelines.base import Pipeline, build_pipeline, resolve_engine
from latentsync.settings import Settings

logger = logging.getLogger(__name__)

_ASK_EVERY_S = 0.1  # whether to go on waiting for whoever builds


class Engines:
    """Hands out pipelines by name.

    Args:
        settings: names the default engine and says how engines are built.
        default: a pipeline that is built already and takes the default engine's place.
    """

    def __init__(self, settings: Settings, default: Pipeline | None = None) -> None:
        self._settings = settings
        self._default = default
        self._built: dict[str, Pipeline] = {}
        self._building = Lock()

    def get(self, name: str | None = None, check: Callable[[], None] = never) -> Pipeline:
        """Return the engine called ``name``, or the default one; the first call builds it.

        Engines are built one at a time: networks without memory are made by a switch that all
        threads share. ``check`` is called while weights are fetched, here or by another thread that
        this one waits for, and may raise to stop. A failure is not kept: the next call tries again,
        since a missing file of weights may have come meanwhile.

        Raises:
            EngineUnavailable: it cannot run here.
        """
        if name is None and self._default is not None:
            return self._default
        name = resolve_engine(name or self._settings.engine)
        if name not in self._built:
            with self._turn_to_build(check):
                if name not in self._built:
                    self._built[name] = self._build(name, check)
        return self._built[name]

    def require(self, name: str | None = None) -> None:
        """Raise EngineUnavailable where it shows, without building it, that it cannot run here.

        May take long on a machine with a GPU, of which torch is asked.
        """
        if name is None and self._default is not None:
            return
        name = resolve_engine(name or self._settings.engine)
        if name not in self._built:
            survey_engines(self._settings).require(name)

    @contextmanager
    def _turn_to_build(self, check: Callable[[], None]) -> Iterator[None]:
        while not self._building.acquire(timeout=_ASK_EVERY_S):
            check()
        try:
            yield
        finally:
            self._building.release()

    def _build(self, name: str, check: Callable[[], None]) -> Pipeline:
        started = time.perf_counter()
        pipeline = build_pipeline(name, self._settings, check)
        logger.info("engine %s built in %.2f s", name, time.perf_counter() - started)
        return pipeline

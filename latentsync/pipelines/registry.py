"""Which engines can run on this machine, and the pipelines built so far.

Availability is determined without importing an engine. Problems that only show when an engine is
built, such as a driver that is too old for the installed torch, raise the same error then.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from threading import Lock

from latentsync.config import find_packaged
from latentsync.errors import EngineUnavailable, LatentSyncError, WeightsMissing
from latentsync.monitor import no_check
from latentsync.pipelines import requirements
from latentsync.pipelines.base import Pipeline
from latentsync.schema.engines import (
    AUTO,
    AUTO_ELSEWHERE,
    AUTO_ON_GPU,
    ENGINES,
    EngineSpec,
    EngineSurvey,
    Obstacle,
    engine_spec,
    unknown_engine,
)
from latentsync.settings import Settings
from latentsync.weights.catalog import weights_for
from latentsync.weights.ensure import find_missing_offline


def survey_engines(settings: Settings) -> EngineSurvey:
    """Return which engines this machine can run with these settings; takes a few milliseconds."""
    obstacles = {name: find_obstacle(name, settings) for name in ENGINES}
    auto, auto_obstacle = _survey_auto(obstacles)
    return EngineSurvey(settings.engine, auto, {AUTO: auto_obstacle, **obstacles})


def find_obstacle(name: str, settings: Settings) -> Obstacle | None:
    """Return why an engine cannot run here; None if it can. ``name`` must not be ``auto``.

    Raises:
        EngineUnavailable: there is no such engine.
    """
    spec = engine_spec(name)
    if missing := requirements.missing_packages(spec.packages):
        return Obstacle(EngineUnavailable.code, requirements.explain_missing(missing, spec.extra))
    reason = _missing_file(spec)
    if reason is None and spec.uses_device:
        reason = requirements.find_device_obstacle(settings.device, settings.dtype)
    if reason is not None:
        return Obstacle(EngineUnavailable.code, reason)
    reason = find_missing_offline(weights_for(name, settings), settings)
    return None if reason is None else Obstacle(WeightsMissing.code, reason)


def require_packages(name: str, settings: Settings) -> None:
    """Raise EngineUnavailable unless the packages of an engine are installed."""
    spec = engine_spec(name)
    if missing := requirements.missing_packages(spec.packages):
        found = Obstacle(EngineUnavailable.code, requirements.explain_missing(missing, spec.extra))
        raise found.as_error(name, survey_engines(settings).runnable)


def refused_import(name: str, error: Exception, settings: Settings) -> LatentSyncError | None:
    """Return the error for an engine that fails because a package cannot be imported.

    Args:
        name: of the engine.
        error: raised when the engine was imported or built.
        settings: determine which other engines the message names.

    Returns:
        None if the error does not come from another package.
    """
    extra = engine_spec(name).extra
    if (reason := requirements.explain_import_failure(error, extra)) is None:
        return None
    others = (one for one in survey_engines(settings).runnable if ENGINES[one].extra != extra)
    return Obstacle(EngineUnavailable.code, reason).as_error(name, others)


def require_any_engine(settings: Settings) -> None:
    """Raise EngineUnavailable if no engine can run here."""
    found = survey_engines(settings)
    if not found.runnable:
        found.require(found.default)


def _survey_auto(
    obstacles: Mapping[str, Obstacle | None],
) -> tuple[str | None, Obstacle | None]:
    """Return the engine that ``auto`` selects, and why that cannot run."""
    if (reason := requirements.find_gpu_obstacle()) is not None:
        return None, Obstacle(EngineUnavailable.code, reason)
    on_gpu = requirements.may_have_cuda()
    if on_gpu is None:
        return None, obstacles[AUTO_ON_GPU] and obstacles[AUTO_ELSEWHERE]
    name = AUTO_ON_GPU if on_gpu else AUTO_ELSEWHERE
    return name, obstacles[name]


def _missing_file(spec: EngineSpec) -> str | None:
    try:
        for name in spec.files:
            find_packaged(name)
    except EngineUnavailable as error:
        return error.message
    return None


logger = logging.getLogger(__name__)

_POLL_S = 0.1  # while another thread builds an engine


BuildEngine = Callable[[str, Settings, Callable[[], None]], Pipeline]


def resolve_engine(name: str) -> str:
    """Return the engine that ``auto`` selects: LatentSync on a machine with a GPU, else draft.

    Other names are returned unchanged.

    Raises:
        EngineUnavailable: there is a GPU that cannot be used.
    """
    if name != AUTO:
        return name
    return AUTO_ON_GPU if requirements.has_cuda() else AUTO_ELSEWHERE


def build_pipeline(name: str, settings: Settings, check: Callable[[], None] = no_check) -> Pipeline:
    """Build an engine.

    Args:
        name: a name of :data:`latentsync.schema.fields.EngineName`.
        settings: device, dtype, weights.
        check: called while weights are fetched; may raise to stop.

    Raises:
        EngineUnavailable: the name is unknown, or the engine cannot run here.
    """
    name = resolve_engine(name)
    build = import_engine(name, settings)
    with _import_failures_explained(name, settings, ImportError):
        return build(name, settings, check)


def import_engine(name: str, settings: Settings | None = None) -> BuildEngine:
    """Import the modules of an engine and return the function that builds it.

    Building uses the device, importing does not.

    Args:
        name: as for :func:`build_pipeline`, but not ``auto``, which depends on the device.
        settings: determine which other engines an error names; by default from the environment.

    Raises:
        EngineUnavailable: the name is unknown, or a package is missing or cannot be imported.
    """
    if name not in ENGINES:
        raise unknown_engine(name)
    settings = settings or Settings()
    require_packages(name, settings)
    module_name, function_name = ENGINES[name].builder
    build: BuildEngine
    with _import_failures_explained(name, settings, Exception):  # a broken package raises anything
        build = getattr(import_module(module_name), function_name)
    return build


@contextmanager
def _import_failures_explained(
    name: str, settings: Settings, kind: type[Exception]
) -> Iterator[None]:
    """Raise EngineUnavailable if another package cannot be imported, and log the traceback."""
    try:
        yield
    except LatentSyncError:
        raise
    except kind as error:
        if (refusal := refused_import(name, error, settings)) is None:
            raise
        # At level info, because the command line prints one line per error.
        logger.info("engine %s cannot be imported", name, exc_info=error)
        raise refusal from error


class PipelineCache:
    """Builds each pipeline once.

    Args:
        settings: the default engine, and how engines are built.
        default: a pipeline that replaces the default engine.
    """

    def __init__(self, settings: Settings, default: Pipeline | None = None) -> None:
        self._settings = settings
        self._default = default
        self._built: dict[str, Pipeline] = {}
        self._building = Lock()

    def get(self, name: str | None = None, check: Callable[[], None] = no_check) -> Pipeline:
        """Return an engine, by default the default one; the first call builds it.

        Engines are built one at a time, because accelerate's ``init_empty_weights`` patches torch
        for all threads. ``check`` is called while this thread fetches weights or waits for another
        thread, and may raise to stop. Errors are not cached: the next call tries again.

        Raises:
            EngineUnavailable: the engine cannot run here.
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
        """Raise EngineUnavailable if an engine cannot run here, without building it.

        May take long on a machine with a GPU, where it imports torch.
        """
        if name is None and self._default is not None:
            return
        name = resolve_engine(name or self._settings.engine)
        if name not in self._built:
            survey_engines(self._settings).require(name)

    @contextmanager
    def _turn_to_build(self, check: Callable[[], None]) -> Iterator[None]:
        while not self._building.acquire(timeout=_POLL_S):
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

"""Which engines can run on this machine, found out without importing what they are made of.

What shows only when an engine is built, such as a driver that is too old for the installed torch,
is not found here; building raises the same error then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from latentsync.device import find_device_obstacle, find_gpu_obstacle, may_have_cuda
from latentsync.engines import AUTO, AUTO_ELSEWHERE, AUTO_ON_GPU, ENGINES, EngineSpec, engine_spec
from latentsync.errors import EngineUnavailable, LatentSyncError, WeightsMissing, recall_error
from latentsync.installation import (
    explain_import_failure,
    explain_missing,
    missing_packages,
)
from latentsync.packaged import find_packaged
from latentsync.settings import Settings
from latentsync.weights.catalog import weights_for
from latentsync.weights.cold_start import find_missing_offline


@dataclass(frozen=True)
class Obstacle:
    """Why an engine cannot run.

    Attributes:
        code: of the error that says so.
        reason: whole sentences: what is missing, and what to do about it.
    """

    code: str
    reason: str

    def as_error(self, name: str, runnable: Iterable[str]) -> LatentSyncError:
        """Return the error for whoever asks for the engine.

        Args:
            name: of the engine.
            runnable: names of those that can run in its place.
        """
        others = ", ".join(runnable)
        instead = f"Engines that can run here: {others}." if others else "No engine can run here."
        message = f"The engine {name} cannot run here. {self.reason} {instead}"
        return recall_error(self.code, message, field="engine")


@dataclass(frozen=True)
class EngineSurvey:
    """What a process of this machine can run.

    Attributes:
        default: the engine that is taken when a request names none.
        auto: what ``auto`` stands for; None where only torch knows, or it can be nothing.
        obstacles: why engines cannot run, by name, ``auto`` among them; None for those that can.
    """

    default: str
    auto: str | None
    obstacles: Mapping[str, Obstacle | None]

    def obstacle(self, name: str | None) -> Obstacle | None:
        """Return why the engine called ``name``, or the default one, cannot run; None if it can."""
        name = name or self.default
        if name in self.obstacles:
            return self.obstacles[name]
        return Obstacle(EngineUnavailable.code, "No worker's version of latentsync knows it.")

    @property
    def runnable(self) -> list[str]:
        """Names of the engines that can run, without ``auto``."""
        return [name for name, found in self.obstacles.items() if found is None and name != AUTO]

    def require(self, name: str | None) -> None:
        """Raise EngineUnavailable, or a kind of it, unless the engine can run."""
        if (found := self.obstacle(name)) is not None:
            raise found.as_error(name or self.default, self.runnable)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, recorded: dict[str, Any]) -> EngineSurvey:
        """Return what :meth:`to_json` was asked of; a later version may have added to it."""
        obstacles = {
            name: None if found is None else Obstacle(found["code"], found["reason"])
            for name, found in recorded["obstacles"].items()
        }
        return cls(recorded["default"], recorded["auto"], obstacles)


def survey_engines(settings: Settings) -> EngineSurvey:
    """Return what this machine can run with these settings; takes a few milliseconds."""
    obstacles = {name: find_obstacle(name, settings) for name in ENGINES}
    auto, auto_obstacle = _survey_auto(obstacles)
    return EngineSurvey(settings.engine, auto, {AUTO: auto_obstacle, **obstacles})


def find_obstacle(name: str, settings: Settings) -> Obstacle | None:
    """Return why the engine called ``name``, not ``auto``, cannot run here; None if it can.

    Raises:
        EngineUnavailable: there is no such engine.
    """
    spec = engine_spec(name)
    if missing := missing_packages(spec.packages):
        return Obstacle(EngineUnavailable.code, explain_missing(missing, spec.extra))
    reason = _missing_file(spec)
    if reason is None and spec.uses_device:
        reason = find_device_obstacle(settings.device, settings.dtype)
    if reason is not None:
        return Obstacle(EngineUnavailable.code, reason)
    reason = find_missing_offline(weights_for(name, settings), settings)
    return None if reason is None else Obstacle(WeightsMissing.code, reason)


def require_packages(name: str, settings: Settings) -> None:
    """Raise EngineUnavailable unless the packages of the engine called ``name`` are installed."""
    spec = engine_spec(name)
    if missing := missing_packages(spec.packages):
        found = Obstacle(EngineUnavailable.code, explain_missing(missing, spec.extra))
        raise found.as_error(name, survey_engines(settings).runnable)


def refused_import(name: str, error: Exception, settings: Settings) -> LatentSyncError | None:
    """Return the error for an engine one of whose packages cannot be imported.

    Args:
        name: of the engine.
        error: raised by its import, or while it was built.
        settings: by which the engines are named that can run in its place.

    Returns:
        None if no package is at fault: that is a defect of the engine's own.
    """
    extra = engine_spec(name).extra
    if (reason := explain_import_failure(error, extra)) is None:
        return None
    others = (one for one in survey_engines(settings).runnable if ENGINES[one].extra != extra)
    return Obstacle(EngineUnavailable.code, reason).as_error(name, others)


def require_any_engine(settings: Settings) -> None:
    """Raise EngineUnavailable if none of all engines can run here."""
    found = survey_engines(settings)
    if not found.runnable:
        found.require(found.default)


def _survey_auto(obstacles: Mapping[str, Obstacle | None]) -> tuple[str | None, Obstacle | None]:
    """Return what ``auto`` stands for, and why that cannot run."""
    if (reason := find_gpu_obstacle()) is not None:
        return None, Obstacle(EngineUnavailable.code, reason)
    on_gpu = may_have_cuda()
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

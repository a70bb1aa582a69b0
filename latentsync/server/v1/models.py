"""``GET /v1/models``: which engines there are to choose from, and which can run."""

from __future__ import annotations

from pydantic import BaseModel, Field

from latentsync.engines import ENGINES
from latentsync.jobs.engine_availability import Availability
from latentsync.settings import Settings

_NOT_KNOWN = "No worker is alive, so it is not known yet whether it can run; jobs are kept."


class Model(BaseModel):
    """One engine."""

    id: str = Field(description="a value of the field engine")
    description: str
    is_default: bool = Field(description="taken when a request names none")
    available: bool = Field(
        description="false: no worker can run it, and predictions that ask for it are refused"
    )
    reason: str | None = Field(
        description="why it cannot run, and what to do about it; or why that is not known"
    )


class Models(BaseModel):
    """All engines."""

    default: str = Field(description="auto is latentsync-1.6 on a worker with a GPU, else draft")
    models: list[Model]


def list_models(settings: Settings, engines: Availability) -> Models:
    """Return the engines, which one is taken by default, and which can run."""
    models = [
        Model(
            id=spec.name,
            description=spec.description,
            is_default=spec.name == settings.engine,
            available=engines.obstacle(spec.name) is None,
            reason=_reason(engines, spec.name),
        )
        for spec in ENGINES.values()
    ]
    return Models(default=settings.engine, models=models)


def _reason(engines: Availability, name: str) -> str | None:
    if (found := engines.obstacle(name)) is not None:
        return found.reason
    return None if engines.surveys else _NOT_KNOWN

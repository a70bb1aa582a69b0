"""``GET /v1/models``: which engines there are to choose from, and which can run."""

from pydantic import BaseModel, Field

from latentsync.jobs.engine_availability import Availability
from latentsync.schema.engines import ENGINES
from latentsync.settings import Settings

_NOT_KNOWN = "No worker is running, so it is not known whether it can run; jobs stay queued."


class Model(BaseModel):
    """One engine."""

    id: str = Field(description="Value for the field `engine`.")
    description: str = Field(description="What it does and what it needs.")
    is_default: bool = Field(description="Whether requests without `engine` use it.")
    available: bool = Field(
        description="Whether a worker can run it; otherwise requests for it are refused."
    )
    reason: str | None = Field(
        description="Why it cannot run and how to fix that, or why that is not known."
    )


class ModelList(BaseModel):
    """The engines, and the default one."""

    default: str = Field(
        description="Engine of requests without `engine`. `auto` is `latentsync-1.6` on a worker "
        "with a GPU, else `draft`."
    )
    models: list[Model] = Field(description="The engines.")


def list_models(settings: Settings, engines: Availability) -> ModelList:
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
    return ModelList(default=settings.engine, models=models)


def _reason(engines: Availability, name: str) -> str | None:
    if (found := engines.obstacle(name)) is not None:
        return found.reason
    return None if engines.surveys else _NOT_KNOWN

"""``GET /v1/models``: which engines there are to choose from."""

from __future__ import annotations

from pydantic import BaseModel, Field

from latentsync.settings import Settings

_DESCRIPTIONS = {
    "latentsync-1.6": "Diffusion at 512 x 512 pixels per face; about 18 GB of GPU memory.",
    "latentsync-1.5": "Diffusion at 256 x 256 pixels per face; about 8 GB of GPU memory.",
    "draft": "Moves the mouth that is in the picture; runs on every CPU, needs no weights.",
}


class Model(BaseModel):
    """One engine."""

    id: str = Field(description="Value for the field `engine`.")
    description: str = Field(description="What it does and needs.")
    is_default: bool = Field(description="Whether requests without `engine` use it.")


class ModelList(BaseModel):
    """The engines, and the default one."""

    default: str = Field(
        description="Engine of requests that name none. `auto` is `latentsync-1.6` on a worker "
        "with a GPU, else `draft`."
    )
    models: list[Model] = Field(description="The engines.")


def list_models(settings: Settings) -> ModelList:
    """Return the engines and which one is taken by default."""
    models = [
        Model(id=name, description=text, is_default=name == settings.engine)
        for name, text in _DESCRIPTIONS.items()
    ]
    return ModelList(default=settings.engine, models=models)

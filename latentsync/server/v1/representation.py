"""Predictions in company, and uploads, as the native API shows them."""

from __future__ import annotations

from pydantic import BaseModel, Field

from latentsync.jobs.representation import Prediction


class PredictionPage(BaseModel):
    """Some of one's predictions, latest first."""

    predictions: list[Prediction]
    next_cursor: str | None = Field(description="give it as cursor for those that come after")


class Predictions(BaseModel):
    """The predictions of one call, in its order."""

    predictions: list[Prediction]


class Upload(BaseModel):
    """A stored file."""

    id: str
    url: str = Field(description="use it as video_url or audio_url")
    size_bytes: int

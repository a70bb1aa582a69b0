"""Response models of the native API: lists of predictions, and uploads."""

from __future__ import annotations

from pydantic import BaseModel, Field

from latentsync.jobs.representation import Prediction


class PredictionPage(BaseModel):
    """A page of your predictions, newest first."""

    predictions: list[Prediction]
    next_cursor: str | None = Field(
        description="Pass it as `cursor` to get the next page; null on the last one."
    )


class PredictionList(BaseModel):
    """The predictions of one call, in the order of its list."""

    predictions: list[Prediction]


class Upload(BaseModel):
    """A stored file."""

    id: str = Field(description="Id of the upload.")
    url: str = Field(
        description="Address to use as `video_url` or `audio_url`, `upload://` and the id."
    )
    size_bytes: int = Field(description="Size of the file.")

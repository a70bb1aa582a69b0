"""A request for one run, independent of the API it came through, and the options of a run."""

from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path

from pydantic import Field, field_validator

from latentsync.schema.fields import (
    CACHE_INTERVAL_MAX,
    EngineName,
    GuidanceScale,
    InferenceSteps,
    SchedulerName,
    Seed,
    Share,
    Speaker,
    StrictModel,
    SyncMode,
    WholeNumber,
)


@dataclass(frozen=True)
class UrlSource:
    """Media at a URL; ``name`` is the field of the request, for error messages."""

    url: str
    name: str


@dataclass(frozen=True)
class InlineSource:
    """Media in the request as base64, with or without a ``data:`` prefix."""

    base64: str = dataclass_field(repr=False)
    name: str


@dataclass(frozen=True)
class PathSource:
    """Media in a file of this machine, inside an allowed root.

    Attributes:
        path: path of the file.
        name: the request field, for messages.
        disposable: whether it was received for this request only, so that it may be moved.
    """

    path: Path
    name: str
    disposable: bool = False


MediaSource = UrlSource | InlineSource | PathSource


class RunOptions(StrictModel):
    """Options of a run."""

    guidance_scale: GuidanceScale = 1.5
    inference_steps: InferenceSteps = 20
    seed: Seed = 1247
    sync_mode: SyncMode = Field(
        SyncMode.BOUNCE, description="What to do when video and audio have different lengths."
    )
    speaker: Speaker = Field(
        "auto",
        description="The speaker: `auto` (the largest and steadiest face), a point in a frame, or "
        "a box in a frame.",
    )
    deadline_s: float | None = Field(
        None, strict=True, gt=0, description="Fail the run after this many seconds."
    )
    engine: EngineName | None = Field(
        None,
        description="Engine to use; by default the one the server is configured with.",
    )
    scheduler: SchedulerName = Field(
        "ddim",
        description="Sampler. `dpm-solver++` needs about half the steps and is approximate.",
    )
    feature_cache_interval: WholeNumber = Field(
        1,
        strict=True,
        ge=1,
        le=CACHE_INTERVAL_MAX,
        description="Run the full network only every N steps and reuse its features in between. "
        "Faster and approximate above 1.",
    )
    guidance_interval: tuple[Share, Share] = Field(
        (0.0, 1.0),
        description="Steps with guidance, as start and end from 0 to 1. Faster and approximate "
        "when shorter.",
    )
    keep_sound: bool = Field(
        True,
        strict=True,
        description="With `segments`: keep the sound of the video outside the segments.",
    )

    @field_validator("guidance_interval")
    @classmethod
    def _start_before_end(cls, interval: tuple[float, float]) -> tuple[float, float]:
        if interval[0] >= interval[1]:
            raise ValueError("the start must lie before the end")
        return interval

    @property
    def sync_mode_given(self) -> bool:
        """Whether ``sync_mode`` was set explicitly.

        The default does not extend a video for a segment that starts after its end.
        """
        return "sync_mode" in self.model_fields_set


@dataclass(frozen=True)
class Segment:
    """A part of the video in which one speaker speaks.

    Attributes:
        audio: its own recording; None uses the request's.
        start_s: start in the video, in seconds.
        end_s: end in the video, in seconds; None where its recording ends.
        audio_start_s: start in the recording, in seconds.
        speaker: the face whose lips are generated.
    """

    audio: MediaSource | None
    start_s: float = 0.0
    end_s: float | None = None
    audio_start_s: float = 0.0
    speaker: Speaker = "auto"


@dataclass(frozen=True)
class RunRequest:
    """The input of the runner.

    Attributes:
        video: the source video.
        audio: the speech; None if every segment has its own recording.
        options: of the run; the seed is drawn.
        segments: who speaks when; empty: one speaker from start to end.
    """

    video: MediaSource
    audio: MediaSource | None
    options: RunOptions = RunOptions()
    segments: tuple[Segment, ...] = ()

    @property
    def recordings(self) -> dict[str, MediaSource]:
        """The recordings by name: ``audio``, ``segments.0.audio``, …"""
        named = {"audio": self.audio} if self.audio is not None else {}
        own = ((segment_recording(i), segment.audio) for i, segment in enumerate(self.segments))
        return named | {name: source for name, source in own if source is not None}

    @property
    def media(self) -> dict[str, MediaSource]:
        """All media by name: ``video`` and the recordings."""
        return {"video": self.video} | self.recordings


def segment_recording(index: int) -> str:
    """Return the name of a segment's own recording: ``segments.3.audio``."""
    return f"segments.{index}.audio"

"""One run as everything behind the doors knows it, whatever contract it came from."""

from dataclasses import dataclass, field
from pathlib import Path

from latentsync.schema.fields import EngineName, SchedulerName, Speaker, SyncMode


@dataclass(frozen=True)
class UrlSource:
    """Media behind an http or https address; ``name`` is the request field, for messages."""

    url: str
    name: str


@dataclass(frozen=True)
class InlineSource:
    """Media inside the request as base64 text, with or without a ``data:`` prefix."""

    base64: str = field(repr=False)
    name: str


@dataclass(frozen=True)
class PathSource:
    """Media that already lies on this machine, inside an allowed root.

    Attributes:
        path: where it lies.
        name: field that brought it, for messages.
        disposable: it was received for this request alone, so it may be moved away.
    """

    path: Path
    name: str
    disposable: bool = False


MediaSource = UrlSource | InlineSource | PathSource


@dataclass(frozen=True)
class RunOptions:
    """Options of one run, every value final (the seed is drawn).

    Attributes:
        sync_mode_given: whether the caller chose ``sync_mode``, or it is the default: only what
            was chosen says what is seen where a segment begins behind the video's end.
    """

    guidance_scale: float = 1.5
    inference_steps: int = 20
    seed: int = 1247
    sync_mode: SyncMode = SyncMode.BOUNCE
    speaker: Speaker = "auto"
    deadline_s: float | None = None
    engine: EngineName | None = None
    scheduler: SchedulerName = "ddim"
    feature_cache_interval: int = 1
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    keep_sound: bool = True
    # Says how a value came about and not what it is, so options that differ in it are equal.
    sync_mode_given: bool = field(default=True, compare=False)


@dataclass(frozen=True)
class Segment:
    """A part of the video that one speaker says.

    Attributes:
        audio: its own recording; None stands for the request's.
        start_s: where in the video it begins.
        end_s: where in the video it ends; None where its recording does.
        audio_start_s: where in the recording it begins.
        speaker: whose lips move.
    """

    audio: MediaSource | None
    start_s: float = 0.0
    end_s: float | None = None
    audio_start_s: float = 0.0
    speaker: Speaker = "auto"


@dataclass(frozen=True)
class RunRequest:
    """One job for the runner, whatever door it came through.

    Attributes:
        video: the source video.
        audio: the speech; None if every segment brings its own.
        options: of the run.
        segments: what is said where and by whom; none: the speech, from start to end.
    """

    video: MediaSource
    audio: MediaSource | None
    options: RunOptions = RunOptions()
    segments: tuple[Segment, ...] = ()

    @property
    def recordings(self) -> dict[str, MediaSource]:
        """Return the speech by name: ``audio``, ``segments.0.audio``, …"""
        named = {"audio": self.audio} if self.audio is not None else {}
        own = ((segment_recording(i), segment.audio) for i, segment in enumerate(self.segments))
        return named | {name: source for name, source in own if source is not None}

    @property
    def media(self) -> dict[str, MediaSource]:
        """Return everything that must be brought here, by name: ``video`` and the recordings."""
        return {"video": self.video} | self.recordings


def segment_recording(index: int) -> str:
    """Return the name of a segment's own recording."""
    return f"segments.{index}.audio"

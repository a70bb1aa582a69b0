"""Runs one request; used by all APIs and commands.

    fetch -> probe -> read -> generate -> write -> Result

The runner handles files and codecs; the pipeline only frames and waveforms. Frames are streamed:
read, generated and written one after the other, without keeping any. Only the waveform and an
engine's data per frame (4 KB in the draft engine) grow with length.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from threading import Event, get_ident

from latentsync.formats import VIDEO_FPS, Frame
from latentsync.media.fetch import fetch_media
from latentsync.media.probe import AudioInfo, Probes, VideoInfo, probe_audio, probe_video
from latentsync.media.reader import VideoReader
from latentsync.media.writer import even_size, write_video
from latentsync.monitor import ProgressCallback, RunMonitor
from latentsync.pipelines.base import ENGINE_OPTIONS, FrameSource, Generation, Pipeline
from latentsync.plan import Recording, RunPlan, plan_run
from latentsync.schema.responses import PredictDetails, RunWarning, WarningCode
from latentsync.schema.run import RunRequest
from latentsync.settings import Settings
from latentsync.workspace import working_folder

logger = logging.getLogger(__name__)

# Progress of the whole run at the start of each stage; the frames take nearly all of it.
_PROBE_AT, _READ_AT, _GENERATE_AT, _FRAMES_AT, _FRAMES_END = 0.03, 0.04, 0.05, 0.4, 0.99


@dataclass(frozen=True)
class Result:
    """A finished run: the MP4 and its details."""

    video_path: Path
    details: PredictDetails


def run(
    request: RunRequest,
    output_path: Path,
    *,
    settings: Settings,
    pipeline: Pipeline,
    probes: Probes | None = None,
    on_progress: ProgressCallback | None = None,
    canceled: Event | None = None,
) -> Result:
    """Run ``request`` and write the video to ``output_path``.

    Must not be called inside an event loop. Other files are only written to a private working
    folder, which is removed at the end; ``output_path`` exists only after success.

    Args:
        request: sources and options.
        output_path: of the MP4; its folder is created if missing.
        settings: limits, permissions and the root of the working folders.
        pipeline: the engine.
        probes: of media that were probed already; the others are probed here.
        on_progress: called from this thread; its fractions rise to 1.0.
        canceled: set to stop the run.

    Raises:
        LatentSyncError: any of :mod:`latentsync.errors`; other exceptions are defects.
    """
    deadline_s = min(request.options.deadline_s or settings.deadline_s, settings.deadline_s)
    monitor = RunMonitor(on_progress, canceled, deadline_s)
    with working_folder(settings.work_dir) as folder:
        return _Run(
            request, output_path, folder, settings, pipeline, probes or Probes(), monitor
        ).result()


class _Run:
    def __init__(
        self,
        request: RunRequest,
        output_path: Path,
        folder: Path,
        settings: Settings,
        pipeline: Pipeline,
        probes: Probes,
        monitor: RunMonitor,
    ) -> None:
        self._request = request
        self._output_path = output_path
        self._folder = folder
        self._settings = settings
        self._pipeline = pipeline
        self._known = probes
        self._monitor = monitor
        self._warnings: list[RunWarning] = []

    def result(self) -> Result:
        """Run all stages."""
        paths = self._fetch()
        video, recordings = self._probe(paths)
        plan = self._read(paths["video"], video, recordings)
        self._warn(_media_warnings(video, recordings, plan))
        num_frames = plan.frame_indices.size
        reader = VideoReader(paths["video"], video)
        source = _TimedSource(reader)
        started = time.perf_counter()
        with self._monitor.span(_GENERATE_AT, _FRAMES_AT):
            generation = self._pipeline(
                source,
                plan.utterances,
                frame_indices=plan.frame_indices,
                options=self._request.options,
                monitor=self._monitor,
            )
        frames = _TimedFrames(generation.frames, self._monitor, num_frames)
        frames.seconds += time.perf_counter() - started
        with closing(generation.frames), self._monitor.span(self._monitor.fraction, _FRAMES_END):
            write_video(
                self._output_path,
                iter(frames),
                plan.open_sound(),
                num_frames=num_frames,
                width=video.width,
                height=video.height,
                colour=video.colour.written,
                monitor=self._monitor,
            )
        self._attribute(time.perf_counter() - started, frames.seconds, source)
        self._warn(_frame_warnings(reader, video))
        self._warn(_face_warnings(generation, video, num_frames))
        self._monitor.report("write", 1.0, num_frames, num_frames)
        return Result(self._output_path, self._details(generation, video, plan))

    def _fetch(self) -> dict[str, Path]:
        self._monitor.report("fetch", 0.0)
        with self._monitor.timed("fetch"):
            paths = {
                name: fetch_media(source, self._folder, self._settings, self._monitor)
                for name, source in self._request.media.items()
            }
        self._log("fetch", "fetched video and audio")
        return paths

    def _probe(self, paths: dict[str, Path]) -> tuple[VideoInfo, dict[str, Recording]]:
        self._monitor.report("probe", _PROBE_AT)
        with self._monitor.timed("probe"):
            video = self._known.video or probe_video(
                paths["video"], self._settings, self._request.video.name
            )
            recordings = {
                name: Recording(
                    paths[name],
                    self._known.recordings.get(name)
                    or probe_audio(paths[name], self._settings, source.name),
                )
                for name, source in self._request.recordings.items()
            }
        heard = "; ".join(_describe(recording.info) for recording in recordings.values())
        known = {"video": self._known.video, **self._known.recordings}
        scanned = [one.name for name, one in self._request.media.items() if not known.get(name)]
        self._log(
            "probe",
            f"video {video.width}x{video.height}, {video.timeline.fps:.2f} fps, "
            f"{video.duration_s:.2f} s, {video.codec}; audio {heard}; "
            f"scanned {', '.join(scanned) or 'at submission'}",
        )
        return video, recordings

    def _read(
        self, video_path: Path, video: VideoInfo, recordings: dict[str, Recording]
    ) -> RunPlan:
        self._monitor.report("read", _READ_AT)
        with self._monitor.timed("read"):
            return plan_run(
                self._request, video_path, video, recordings, self._settings, self._monitor
            )

    def _attribute(self, all_s: float, frames_s: float, source: _TimedSource) -> None:
        """Split the time of the interleaved stages; reading may also have run concurrently."""
        self._monitor.add_seconds("read", source.seconds)
        self._log("read", "read the speech and the source frames")
        self._monitor.add_seconds("generate", max(0.0, frames_s - source.waited_s))
        self._log("generate", f"generated the frames with {self._pipeline.name}")
        self._monitor.add_seconds("write", max(0.0, all_s - frames_s))
        self._log("write", "encoded and verified the result")

    def _details(self, generation: Generation, video: VideoInfo, plan: RunPlan) -> PredictDetails:
        options = self._request.options
        num_frames = plan.frame_indices.size
        width, height = even_size(video.width, video.height)
        # A custom pipeline may lack the attribute: then it counts as using all options.
        used = getattr(self._pipeline, "options_used", ENGINE_OPTIONS)
        return PredictDetails(
            **dict.fromkeys(ENGINE_OPTIONS)
            | options.model_dump(include={name for name in ENGINE_OPTIONS if name in used}),
            engine=self._pipeline.name,
            model_version=self._pipeline.model_version,
            sync_mode=options.sync_mode,
            frames=num_frames,
            frames_without_face=generation.report.frames_without_face,
            faces_found=generation.report.faces_found,
            fps=float(VIDEO_FPS),
            width=width,
            height=height,
            duration_s=num_frames / VIDEO_FPS,
            segments=list(plan.segments),
            warnings=self._warnings,
            seconds={stage: round(spent, 3) for stage, spent in self._monitor.seconds.items()},
        )

    def _warn(self, warnings: Iterable[RunWarning]) -> None:
        """Log warnings as soon as they are known, for the run may fail, and keep them."""
        for warning in warnings:
            logger.info("warning: %s", warning.message)
            self._warnings.append(warning)

    def _log(self, stage: str, done: str) -> None:
        logger.info("%s: %s in %.2f s", stage, done, self._monitor.seconds[stage])


def _describe(info: AudioInfo) -> str:
    return f"{info.sample_rate} Hz, {info.layout}, {info.duration_s:.2f} s, {info.codec}"


def _media_warnings(
    video: VideoInfo, recordings: Mapping[str, Recording], plan: RunPlan
) -> Iterable[RunWarning]:
    """Return what is unusual about the media, each warning once."""
    heard = (warning for one in recordings.values() for warning in one.info.warnings)
    # The plan may repeat those of the recordings that it uses.
    return dict.fromkeys([*video.warnings, *_size_warnings(video), *heard, *plan.warnings])


def _size_warnings(video: VideoInfo) -> Iterator[RunWarning]:
    width, height = even_size(video.width, video.height)
    if (width, height) != (video.width, video.height):
        yield RunWarning(
            code=WarningCode.SIZE_ROUNDED,
            message=f"{video.field} is {video.width}x{video.height} pixels; its frames were "
            f"extended to {width}x{height}, because H.264 needs even sides.",
        )


def _frame_warnings(reader: VideoReader, video: VideoInfo) -> Iterator[RunWarning]:
    """Return what was unusual about the frames that were read."""
    if reader.has_deinterlaced:
        yield RunWarning(
            code=WarningCode.DEINTERLACED,
            message=f"{video.field} is interlaced; its fields were made whole frames.",
        )
    if reader.other_sizes:
        sizes = ", ".join(f"{width}x{height}" for width, height in reader.other_sizes)
        yield RunWarning(
            code=WarningCode.FRAME_SIZE_CHANGED,
            message=f"Frames of {video.field} change their size on the way ({sizes}); they were "
            f"fitted into {video.width}x{video.height}.",
        )


def _face_warnings(
    generation: Generation, video: VideoInfo, num_frames: int
) -> Iterator[RunWarning]:
    missing = generation.report.frames_without_face
    if missing:
        yield RunWarning(
            code=WarningCode.FRAMES_WITHOUT_FACE,
            message=f"{video.field} shows no usable face of the speaker in {missing} of the "
            f"result's {num_frames} frames; the lips were left unchanged there.",
        )


class _TimedSource:
    """A frame source that measures the seconds spent in it, in total and in the run's thread."""

    def __init__(self, source: FrameSource) -> None:
        self._source = source
        self._thread = get_ident()
        self.seconds = 0.0
        self.waited_s = 0.0

    @property
    def num_frames(self) -> int:
        return self._source.num_frames

    @property
    def width(self) -> int:
        return self._source.width

    @property
    def height(self) -> int:
        return self._source.height

    def read(self, indices: Iterable[int]) -> Iterator[Frame]:
        """Yield the frames of the wrapped source."""
        frames = self._source.read(indices)
        while True:
            started = time.perf_counter()
            frame = next(frames, None)
            spent = time.perf_counter() - started
            self.seconds += spent
            if get_ident() == self._thread:
                self.waited_s += spent
            if frame is None:
                return
            yield frame


class _TimedFrames:
    """A pipeline's frames; measures the seconds and reports progress after each."""

    def __init__(self, frames: Iterator[Frame], monitor: RunMonitor, num_frames: int) -> None:
        self._frames = frames
        self._monitor = monitor
        self._num_frames = num_frames
        self.seconds = 0.0

    def __iter__(self) -> Iterator[Frame]:
        done = 0
        while True:
            started = time.perf_counter()
            frame = next(self._frames, None)
            self.seconds += time.perf_counter() - started
            if frame is None:
                return
            yield frame
            done += 1
            self._monitor.report("generate", done / self._num_frames, done, self._num_frames)

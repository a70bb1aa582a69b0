"""A whole LatentSync run with tiny networks: python -m benchmarks.lipsync [--seconds N]

Prints the seconds of every stage per second of video; the wall time while frames are made against
the busiest of the three concurrent threads (at most 1.15); how many videos were encoded (one); and
two comparisons that must be equal: windows one by one and in batches, and a video that plays back
and forth with and without the cache of posteriors.

The networks get one thread; on a machine with one CPU nothing can overlap. Exit status 1 if a
result exceeds its limit.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import av
import numpy as np
import torch

from benchmarks.memory import make_speech, make_video
from latentsync.formats import SAMPLE_RATE, VIDEO_FPS, Frame
from latentsync.monitor import Progress, RunMonitor
from latentsync.pipelines.lipsync.face_generator import LatentCache
from latentsync.pipelines.lipsync_pipeline import LipsyncPipeline
from latentsync.runner import run
from latentsync.schema.run import PathSource, RunOptions, RunRequest
from latentsync.settings import Settings
from tests.demo_media import FramesInMemory, demo_frames, demo_speech
from tests.pipelines.tiny_lipsync import build_tiny_lipsync
from tests.utterances import whole

MOST_WALL = 1.15
MOST_LEVELS = 1  # float32 rounds differently for other batch sizes
RESOLUTION = 128
SOURCE_FRAMES, SHOWN_FRAMES = 20, 60  # of the comparisons: three turns and a short last window
OPTIONS = RunOptions(inference_steps=2)


def main() -> int:
    """Print the results; return 1 if one exceeds its limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=4, help="length of the video")
    length_s = parser.parse_args().seconds
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        alone, together = (
            build_tiny_lipsync(folder, resolution=RESOLUTION, batch_windows=windows)
            for windows in (1, 3)
        )
        within = [_report_run(alone, folder, length_s)]
    frames = _bounce(alone)
    within.append(_report_difference("batched - one by one", _bounce(together), frames))
    forgetful = partial(LatentCache, most_bytes=0)
    with mock.patch("latentsync.pipelines.lipsync.face_generator.LatentCache", forgetful):
        within.append(_report_difference("looped, kept - made again", frames, _bounce(alone)))
    return int(not all(within))


class _Making:
    """Notes when the search for the face ends and the making of frames begins."""

    began = 0.0

    def __call__(self, progress: Progress) -> None:
        if progress.stage == "find_face":
            self.began = time.perf_counter()


def _report_run(pipeline: LipsyncPipeline, folder: Path, length_s: int) -> bool:
    """Take a file through the runner; print stages, overlap and encodes."""
    make_video(folder / "in.mp4", length_s)
    make_speech(folder / "in.wav", length_s)
    request = RunRequest(
        PathSource(folder / "in.mp4", "video"), PathSource(folder / "in.wav", "audio"), OPTIONS
    )
    making = _Making()
    with _noting_encodes() as written:
        details = run(
            request,
            folder / "out.mp4",
            settings=Settings(work_dir=folder / "work", allowed_roots=(folder,)),
            pipeline=pipeline,
            on_progress=making,
        ).details
    wall_s = time.perf_counter() - making.began
    for stage, spent_s in details.seconds.items():
        print(f"{stage:20}{spent_s / details.duration_s:8.3f} s per second of video")
    print(f"videos encoded: {len(written)}")
    return _report_overlap(details.seconds, wall_s) and len(written) == 1


def _report_overlap(seconds: Mapping[str, float], wall_s: float) -> bool:
    """Print how busy each thread was; the source is read before and during the generation."""
    threads = {
        "reading": seconds["read"] / 2 + seconds["generate.align"],
        "networks": sum(
            seconds[f"generate.{stage}"] for stage in ("listen", "encode", "denoise", "decode")
        ),
        "writing": seconds["generate.restore"] + seconds["write"],
    }
    ratio = wall_s / max(threads.values())
    busy = ", ".join(f"{name} {spent_s:.1f} s" for name, spent_s in threads.items())
    print(f"side by side: {busy}; wall {wall_s:.1f} s, {ratio:.3f} x the busiest", end=" ")
    print(f"(allowed: {MOST_WALL})")
    return ratio <= MOST_WALL


@contextmanager
def _noting_encodes() -> Iterator[list[str]]:
    """Yield a list to which the name of every media file opened for writing is added."""
    written: list[str] = []
    av_open = av.open

    def noting(file: Any, mode: str | None = None, *rest: Any, **options: Any) -> Any:
        if mode == "w":
            written.append(Path(file).name)
        return av_open(file, mode, *rest, **options)

    with mock.patch("av.open", noting):
        yield written


def _bounce(pipeline: LipsyncPipeline) -> list[Frame]:
    """Return the frames of a short video that plays back and forth."""
    turn = [*range(SOURCE_FRAMES), *reversed(range(SOURCE_FRAMES))]
    generation = pipeline(
        FramesInMemory(list(demo_frames()[:SOURCE_FRAMES])),
        whole(demo_speech()[: SHOWN_FRAMES * SAMPLE_RATE // VIDEO_FPS], SHOWN_FRAMES),
        frame_indices=np.resize(turn, SHOWN_FRAMES),
        options=OPTIONS,
        monitor=RunMonitor(),
    )
    return list(generation.frames)


def _report_difference(what: str, some: list[Frame], others: list[Frame]) -> bool:
    levels = np.abs(np.stack(some).astype(np.int16) - np.stack(others))
    print(f"{what}: {levels.max()} levels at most, {(levels > 0).mean():.5%} of values differ")
    return bool(levels.max() <= MOST_LEVELS)


if __name__ == "__main__":
    sys.exit(main())

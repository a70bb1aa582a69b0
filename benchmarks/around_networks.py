"""Cost of LatentSync without its networks: python -m benchmarks.around_networks

Milliseconds of CPU per frame of a 1280x720 video, for faces of 256 and 512 pixels: decoding,
aligning and cutting the face out, putting it back, encoding. A video is decoded twice, once to find
the face and once to make the frames, and counts twice; with that the sum is at most 60. The time to
find the face with the embedded mesh, which is a network, is printed separately.

Then putting a face back at 1920x1080, at most 6 for ordinary faces.

The process starts itself again tied to one CPU, so that all libraries and x264 have one thread.
Exit status 1 if a result exceeds its limit.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import TypeVar

import cv2
import numpy as np
import torch

from benchmarks.memory import make_speech, make_video
from benchmarks.restore import face_points
from latentsync.face.geometry import Floats
from latentsync.face.speaker import Choice
from latentsync.formats import Frame
from latentsync.media.probe import AudioInfo, VideoInfo, probe_audio, probe_video
from latentsync.media.reader import VideoReader
from latentsync.media.sound import read_sound
from latentsync.media.writer import write_video
from latentsync.monitor import RunMonitor
from latentsync.pipelines.batching import give_large_blocks_back
from latentsync.pipelines.lipsync.alignment import FaceAligner
from latentsync.pipelines.lipsync.bilinear import cut_face
from latentsync.pipelines.lipsync.face_finder import MeshFinder, align_speaker
from latentsync.pipelines.lipsync.mask import to_pixel_values
from latentsync.pipelines.lipsync.paste_back import restore_face
from latentsync.settings import Settings

RESOLUTIONS = (256, 512)
MOST_MS, MOST_RESTORE_MS = 60.0, 6.0
ORDINARY, LARGE = (90, 130), (180,)  # pixels between the brows: heads of about 210, 300, 420
REPEATS = 15
DECODES = 2

Result = TypeVar("Result")


class Clip:
    """A video on disk, its frames and its sound."""

    def __init__(self, folder: Path, length_s: int) -> None:
        make_video(folder / "in.mp4", length_s)
        make_speech(folder / "in.wav", length_s)
        self.folder = folder
        self.video: VideoInfo = probe_video(folder / "in.mp4", Settings(), "video")
        self.audio: AudioInfo = probe_audio(folder / "in.wav", Settings(), "audio")

    def read(self) -> list[Frame]:
        reader = VideoReader(self.folder / "in.mp4", self.video)
        return list(reader.read(range(reader.num_frames)))

    def write(self, frames: list[Frame]) -> None:
        write_video(
            self.folder / "out.mp4",
            iter(frames),
            read_sound(self.folder / "in.wav", self.audio, RunMonitor()),
            num_frames=len(frames),
            width=self.video.width,
            height=self.video.height,
            colour=self.video.colour,
            monitor=RunMonitor(),
        )


def main() -> int:
    """Print the results; return 1 if one exceeds its limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=4, help="length of the video")
    length_s = parser.parse_args().seconds
    _stay_on_one_cpu()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    give_large_blocks_back()  # as the engine does, since it affects the cost of allocations
    with tempfile.TemporaryDirectory() as name:
        within = _report_clip(Clip(Path(name), length_s))
    within &= _report_restore()
    return int(not within)


def timed(work: Callable[[], Result]) -> tuple[float, Result]:
    """Return the milliseconds of CPU that a call takes, and what it returns."""
    start = time.process_time()
    result = work()
    return 1e3 * (time.process_time() - start), result


def _report_clip(clip: Clip) -> bool:
    all_ms, frames = timed(clip.read)
    decode = all_ms / len(frames)
    all_ms, found = timed(lambda: MeshFinder().find(lambda: iter(frames), len(frames), [Choice()]))
    find = all_ms / len(frames)
    within = True
    for resolution in RESOLUTIONS:
        matrices = align_speaker(found.points[found.faces[0]], resolution)
        cut, restore, finished = _cut_and_restore(frames, matrices, resolution)
        encode = timed(partial(clip.write, finished))[0] / len(frames)
        total = DECODES * decode + cut + restore + encode
        within &= total <= MOST_MS
        print(
            f"1280x720, {resolution} px: decode {DECODES} x {decode:.1f}, align and cut {cut:.1f}, "
            f"restore {restore:.1f}, encode {encode:.1f}, sum {total:.1f} ms per frame "
            f"(allowed: {MOST_MS:g}); finding the face {find:.1f} in addition"
        )
    return within


def _cut_and_restore(
    frames: list[Frame], matrices: Floats, resolution: int
) -> tuple[float, float, list[Frame]]:
    """Return the costs of both, and frames with the faces cut out of them put back."""
    cut, restore, finished = [], [], []
    for frame, matrix in zip(frames, matrices, strict=True):
        cost, face = timed(partial(cut_face, frame, matrix, resolution))
        cut.append(cost)
        made = to_pixel_values(face[None])[0]
        cost, restored = timed(partial(restore_face, frame, made, matrix))
        restore.append(cost)
        finished.append(restored)
    return median(cut), median(restore), finished


def _report_restore() -> bool:
    random = np.random.default_rng(0)
    frame = cv2.GaussianBlur(random.integers(0, 256, (1080, 1920, 3), np.uint8), (0, 0), 2)
    within = True
    for resolution in RESOLUTIONS:
        face = random.random((3, resolution, resolution), np.float32) * 2 - 1
        costs = {}
        for brows in (*ORDINARY, *LARGE):
            matrix = FaceAligner(resolution).align(face_points(brows))
            put_back = partial(restore_face, frame, face, matrix)
            costs[brows] = median(timed(put_back)[0] for _ in range(REPEATS))
        within &= all(costs[brows] <= MOST_RESTORE_MS for brows in ORDINARY)
        each = ", ".join(f"brows {brows} {cost:.1f}" for brows, cost in costs.items())
        print(f"1920x1080, {resolution} px: restore, {each} ms (allowed: {MOST_RESTORE_MS:g})")
    return within


def _stay_on_one_cpu() -> None:
    """Start again on one CPU: libraries count the CPUs when they are loaded."""
    allowed = os.sched_getaffinity(0)
    if len(allowed) > 1:
        os.sched_setaffinity(0, {max(allowed)})
        os.execv(sys.executable, sys.orig_argv)


if __name__ == "__main__":
    sys.exit(main())

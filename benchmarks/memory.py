"""Peak memory of a long run against a short one: python -m benchmarks.memory [--engine NAME]

Runs the same picture and speech for 10 s and for 60 s (or --seconds SHORT LONG) at 1280x720 through
the runner, each in a process of its own, and prints both peaks and their ratio. Exit status 1 if
the ratio is over 1.1. The engine `latentsync` is the real one with tiny networks in one step:
what it keeps per frame does not depend on their size.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import chain, count
from pathlib import Path

import av
import cv2
import numpy as np

from latentsync.formats import VIDEO_FPS, Frame
from latentsync.pipelines.base import Pipeline
from latentsync.pipelines.registry import build_pipeline
from latentsync.runner import run
from latentsync.schema.run import PathSource, RunOptions, RunRequest
from latentsync.settings import Settings

ASSETS = Path(__file__).parents[1] / "assets"
SHORT_S, LONG_S = 10, 60
WIDTH, HEIGHT = 1280, 720
MOST = 1.1  # allowed ratio of the two peaks


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", default="draft", choices=("draft", "latentsync"))
    parser.add_argument("--seconds", nargs=2, type=int, default=(SHORT_S, LONG_S))
    parser.add_argument("--measure", type=Path, help="folder with one request (used internally)")
    arguments = parser.parse_args()
    if arguments.measure:
        print(measure(arguments.engine, arguments.measure))
        return 0
    peaks = [peak_mib(arguments.engine, length_s) for length_s in arguments.seconds]
    each = [f"{s} s {peak:.0f} MiB" for s, peak in zip(arguments.seconds, peaks, strict=True)]
    ratio = peaks[1] / peaks[0]
    print(f"{arguments.engine}: {', '.join(each)}, ratio {ratio:.3f} (allowed: {MOST})")
    return int(ratio > MOST)


def peak_mib(engine: str, length_s: int) -> float:
    """Make a request of this length and run it in a fresh process."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_video(folder / "in.mp4", length_s)
        make_speech(folder / "in.wav", length_s)
        command = [sys.executable, "-m", "benchmarks.memory", "--engine", engine, "--measure", name]
        answer = subprocess.run(
            command, check=True, cwd=ASSETS.parent, stdout=subprocess.PIPE, text=True
        )
        return float(answer.stdout) / 1024


def measure(engine: str, folder: Path) -> int:
    """Run the request in ``folder``; return this process's peak resident memory in KiB."""
    settings = Settings(
        work_dir=folder / "work", allowed_roots=(folder,), max_duration_s=3600, deadline_s=7200
    )
    run(
        RunRequest(
            PathSource(folder / "in.mp4", "video"),
            PathSource(folder / "in.wav", "audio"),
            RunOptions(inference_steps=1, guidance_scale=1.0),
        ),
        folder / "out.mp4",
        settings=settings,
        pipeline=build_engine(engine, settings, folder),
    )
    # Not getrusage: its peak is inherited from the process that started this one.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def build_engine(engine: str, settings: Settings, folder: Path) -> Pipeline:
    """Build the engine; the networks of LatentSync are tiny and their files lie in ``folder``."""
    if engine != "latentsync":
        return build_pipeline(engine, settings)
    import torch  # the draft engine is measured without it

    from tests.pipelines.tiny_lipsync import build_tiny_lipsync

    torch.set_num_threads(1)
    return build_tiny_lipsync(folder, resolution=64)


def make_video(path: Path, length_s: int) -> None:
    """The demo video, there and back, at this length in the middle of a wide picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=VIDEO_FPS)
        stream.width, stream.height = WIDTH, HEIGHT
        stream.options = {"preset": "ultrafast"}
        for frame, _ in zip(wide_frames(), range(length_s * VIDEO_FPS), strict=False):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def wide_frames() -> Iterator[Frame]:
    with av.open(str(ASSETS / "demo_video.mp4")) as container:
        demo = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    left = (WIDTH - HEIGHT) // 2
    for frame in chain.from_iterable(demo if turn % 2 == 0 else demo[::-1] for turn in count()):
        square = cv2.resize(frame, (HEIGHT, HEIGHT))
        yield np.pad(square, ((0, 0), (left, WIDTH - HEIGHT - left), (0, 0)), mode="edge")


def make_speech(path: Path, length_s: int) -> None:
    """The demo speech, again and again, for this length."""
    with av.open(str(ASSETS / "demo_audio.wav")) as container:
        stream = container.streams.audio[0]
        rate, layout = stream.rate, stream.layout.name
        packer = av.AudioResampler("s16", layout, rate)
        parts = [p.to_ndarray() for f in container.decode(stream) for p in packer.resample(f)]
    channels = av.AudioLayout(layout).nb_channels
    samples = np.resize(np.concatenate(parts, axis=1), (1, length_s * rate * channels))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout=layout)
        frame.sample_rate, frame.pts = rate, 0
        container.mux([*stream.encode(frame), *stream.encode(None)])


if __name__ == "__main__":
    sys.exit(main())

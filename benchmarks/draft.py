"""The draft engine: CPU time per frame, and accuracy of the lips.

    python benchmarks/draft.py                     the demo clip
    python benchmarks/draft.py --clip V A          another video and speech as well

For every clip: milliseconds of CPU per output frame through the runner from file to file (all
threads together, the engine already built), the correlation of the intended opening with the lip
gap measured again in the finished file, the lag at which it is best, and the largest change of the
gap from frame to frame, as share of its range, outside plosives: as planned, which is what is
drawn, and as measured again. The landmark network measures uneven steps in an even motion, so only
the planned change has a limit.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from latentsync.face.tracker import track_faces
from latentsync.media.probe import probe_audio
from latentsync.media.sound import read_waveform
from latentsync.monitor import RunMonitor
from latentsync.pipelines.draft.motion import MouthMotion
from latentsync.pipelines.draft_pipeline import DraftPipeline
from latentsync.runner import Result, run
from latentsync.schema.run import PathSource, RunRequest
from latentsync.settings import Settings

ASSETS = Path(__file__).resolve().parent.parent / "assets"
MOST_MS, MOST_STEP = 60.0, 0.15
LEAST_CORRELATION, LEAST_ON_DEMO = 0.85, 0.95
DEMO = ASSETS / "demo_video.mp4", ASSETS / "demo_audio.wav"
LAGS = range(-4, 5)  # frames

Curve = NDArray[np.float64]


@dataclass(frozen=True)
class Agreement:
    """How well a finished clip shows the intended motion."""

    correlation: float
    best_lag: int
    planned_step: float
    measured_step: float


def main() -> int:
    """Report every clip; return 1 if a result exceeds its limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clip", nargs=2, type=Path, action="append", default=[])
    clips = [DEMO, *parser.parse_args().clip]
    pipeline = DraftPipeline()
    return int(not all([report(pipeline, video, audio) for video, audio in clips]))


def report(pipeline: DraftPipeline, video: Path, audio: Path) -> bool:
    """Print one clip's results; return whether they are within the limits."""
    settings = Settings(allowed_roots=(video.parent.resolve(), audio.parent.resolve()))
    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        result = make(pipeline, video, audio, Path(folder) / "out.mp4", settings)
        spent_ms = 1000 * (time.process_time() - started) / result.details.frames
        agreement = compare(pipeline, audio, result, settings)
    print(
        f"{video.name}: {result.details.width}x{result.details.height}, "
        f"{result.details.frames} frames, {spent_ms:.1f} ms CPU per frame; "
        f"correlation {agreement.correlation:.3f}, best lag {agreement.best_lag}, "
        f"largest step {agreement.planned_step:.3f} planned, {agreement.measured_step:.3f} measured"
    )
    return (
        spent_ms <= MOST_MS
        and agreement.correlation >= (LEAST_ON_DEMO if video == DEMO[0] else LEAST_CORRELATION)
        and agreement.best_lag == 0
        and agreement.planned_step <= MOST_STEP
    )


def make(
    pipeline: DraftPipeline, video: Path, audio: Path, output: Path, settings: Settings
) -> Result:
    """Run one clip from file to file."""
    request = RunRequest(PathSource(video, "video"), PathSource(audio, "audio"))
    return run(request, output, settings=settings, pipeline=pipeline)


def compare(pipeline: DraftPipeline, audio: Path, result: Result, settings: Settings) -> Agreement:
    """Measure the lips of a finished clip and compare them with the planned motion."""
    speech = read_waveform(audio, probe_audio(audio, settings, "audio"))
    motion = pipeline.plan_mouth(speech, result.details.frames, RunMonitor())
    with av.open(str(result.video_path)) as container:
        frames = (frame.to_ndarray(format="rgb24") for frame in container.decode(video=0))
        gaps = track_faces(frames)[0].lip_gaps
    correlations = {lag: correlate(motion.opening, gaps, lag) for lag in LAGS}
    return Agreement(
        correlation=correlations[0],
        best_lag=max(LAGS, key=lambda lag: correlations[lag]),
        planned_step=largest_step(motion.opening, motion),
        measured_step=largest_step(gaps, motion),
    )


def correlate(wanted: Curve, measured: Curve, lag: int) -> float:
    """Return the correlation when the measured curve is read ``lag`` frames later."""
    first, last = max(0, -lag), len(wanted) - max(0, lag)
    pair = np.stack((wanted[first:last], measured[first + lag : last + lag]))
    return float(np.corrcoef(pair[:, np.isfinite(pair[1])])[0, 1])


def largest_step(curve: Curve, motion: MouthMotion) -> float:
    """Return the largest change between neighbours outside plosives, as share of the range."""
    calm = ~(motion.plosive[1:] | motion.plosive[:-1])
    return float(np.nanmax(np.abs(np.diff(curve))[calm]) / (np.nanmax(curve) - np.nanmin(curve)))


if __name__ == "__main__":
    raise SystemExit(main())

"""The process of a device with small engines: ``python -m tests.jobs.square_runner SOCKET``.

A job's seed says how its run goes; see the constants.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latentsync.monitor import RunMonitor
from latentsync.pipelines.base import FrameSource, Generation, Utterance
from latentsync.pipelines.registry import PipelineCache
from latentsync.schema.run import RunOptions
from latentsync.settings import Settings
from latentsync.worker import runner_main
from tests.server.engines import SquareEngine

PLAIN = 0
CRASHES = 1  # the process dies in the middle of every attempt
CRASHES_ONCE = 2  # and only of the first
HANGS = 3  # neither ends nor listens
BROKEN = 4  # raises what is a defect
GATED = 999  # waits until somebody opens the gate, and listens
SLOW = 1000  # this and more: takes seed - 1000 milliseconds, and listens


class SeededEngine(SquareEngine):
    """Does what the seed says."""

    def __call__(
        self,
        source: FrameSource,
        utterances: Sequence[Utterance],
        *,
        frame_indices: NDArray[np.int64],
        options: RunOptions,
        monitor: RunMonitor,
    ) -> Generation:
        monitor.report("generate", 0.0)
        _misbehave(options.seed)
        gate = gate_of(Settings().data_dir)
        until = time.monotonic() + (options.seed - SLOW) / 1000
        while time.monotonic() < until or (options.seed == GATED and not gate.exists()):
            monitor.check()
            time.sleep(0.005)
        return super().__call__(
            source, utterances, frame_indices=frame_indices, options=options, monitor=monitor
        )


def gate_of(data_dir: Path) -> Path:
    """Return the file that opens the gate once it is there."""
    return data_dir / "gate"


def _misbehave(seed: int) -> None:
    if seed == CRASHES or (seed == CRASHES_ONCE and _is_first_time()):
        os.kill(os.getpid(), signal.SIGKILL)
    if seed == HANGS:
        time.sleep(60)
    if seed == BROKEN:
        raise RuntimeError("secret detail in /srv/private/engine.py")


def _is_first_time() -> bool:
    try:
        (Settings().data_dir / "crashed").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


if __name__ == "__main__":
    runner_main.main(PipelineCache(Settings(), default=SeededEngine()))

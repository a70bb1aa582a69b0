"""Small real engines for the server's tests: each is a whole Pipeline of a few lines."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from latentsync.formats import Frame
from latentsync.monitor import RunMonitor
from latentsync.pipelines.base import FrameSource, Generation, GenerationReport, Utterance
from latentsync.schema.run import RunOptions
from tests.utterances import is_loud


class SquareEngine:
    """Shows a white square in the corner while the sound is loud."""

    name = "square"
    model_version = "1"

    def __call__(
        self,
        source: FrameSource,
        utterances: Sequence[Utterance],
        *,
        frame_indices: NDArray[np.int64],
        options: RunOptions,
        monitor: RunMonitor,
    ) -> Generation:
        def frames() -> Iterator[Frame]:
            for number, frame in enumerate(source.read(frame_indices.tolist())):
                monitor.check()
                painted = frame.copy()
                if any(is_loud(one, number) for one in utterances):
                    painted[:16, :16] = 255
                yield painted

        return Generation(frames(), GenerationReport(faces_found=1))


class GatedEngine(SquareEngine):
    """Waits, cancelable, until the gate is opened; counts how many runs are inside at once."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.gate = threading.Event()
        self.inside = 0
        self.most_inside = 0
        self.order: list[int] = []  # seeds, as the runs came in
        self.stopped = threading.Event()  # a run ended by an exception

    def __call__(
        self,
        source: FrameSource,
        utterances: Sequence[Utterance],
        *,
        frame_indices: NDArray[np.int64],
        options: RunOptions,
        monitor: RunMonitor,
    ) -> Generation:
        self.order.append(options.seed)
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        self.entered.release()
        try:
            while not self.gate.wait(0.01):
                monitor.check()
        except BaseException:
            self.stopped.set()
            raise
        finally:
            self.inside -= 1
        return super().__call__(
            source, utterances, frame_indices=frame_indices, options=options, monitor=monitor
        )


class BrokenEngine(SquareEngine):
    """Has a defect."""

    def __call__(self, *args: object, **kwargs: object) -> Generation:
        raise RuntimeError("secret detail in /srv/private/engine.py")

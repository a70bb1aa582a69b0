"""The interface of the engines: frames and a waveform in, finished frames out.

A pipeline opens no files, parses no JSON and knows nothing of jobs. It may read the source's frames
as often as it needs, in any order, through :class:`FrameSource`, but must not keep them.
"""

import logging
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from latentsync.formats import Frame, Waveform
from latentsync.monitor import RunMonitor
from latentsync.schema.fields import Speaker
from latentsync.schema.run import RunOptions

logger = logging.getLogger(__name__)


class FrameSource(Protocol):
    """The source video at a constant 25 fps, upright, readable any number of times."""

    @property
    def num_frames(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...

    def read(self, indices: Iterable[int]) -> Iterator[Frame]:
        """Yield the frames with these numbers, in this order, each H,W,3 uint8 RGB.

        Reading forwards or backwards is cheap. Memory is bounded for every order.
        """
        ...


@dataclass(frozen=True, eq=False)
class Utterance:
    """The speech of one speaker in one interval of the output.

    Attributes:
        waveform: float32 mono 16 kHz; frame ``start + i`` shows the sound at ``i / 25`` seconds;
            sound beyond its end is silence.
        start, stop: the output frames that it covers, stop excluded; at least one.
        speaker: whose lips move.
        field: name of the request's field for the speaker, for messages.
    """

    waveform: Waveform
    start: int
    stop: int
    speaker: Speaker = "auto"
    field: str = "speaker"


@dataclass
class GenerationReport:
    """Counts that a pipeline fills while it works; complete when its frames are exhausted."""

    frames_without_face: int = 0  # output frames in which a speaker's face was not found
    faces_found: int = 0  # different people seen in the source


@dataclass(frozen=True)
class Generation:
    """The output of a pipeline: consume ``frames``, then read ``report``.

    A caller that stops early must close ``frames``, which ends the threads behind them.
    """

    frames: Generator[Frame, None, None]
    report: GenerationReport


# Options that not every engine uses; all engines use the others.
ENGINE_OPTIONS = (
    "guidance_scale",
    "inference_steps",
    "seed",
    "scheduler",
    "feature_cache_interval",
    "guidance_interval",
)


class Pipeline(Protocol):
    """One engine, built once per process and called once per run.

    Attributes:
        options_used: those of :data:`ENGINE_OPTIONS` that affect its output.
    """

    name: str
    model_version: str
    options_used: Collection[str]

    def __call__(
        self,
        source: FrameSource,
        utterances: Sequence[Utterance],
        *,
        frame_indices: NDArray[np.int64],
        options: RunOptions,
        monitor: RunMonitor,
    ) -> Generation:
        """Generate the frames of ``source`` with lips that match ``utterances``.

        Args:
            source: the source video.
            utterances: at least one. Frames that none covers are not changed. Utterances of
                different people may overlap.
            frame_indices: int64 (num_output_frames,): the source frame shown by each output frame.
            options: the run's options.
            monitor: progress, stage seconds, cancellation.

        Returns:
            Generation with exactly ``len(frame_indices)`` frames of the source's size.

        Raises:
            NoFace: a speaker has no usable face in any frame of an utterance.
            InvalidField: there is no face at the given position, or overlapping utterances have the
                same speaker.
        """
        ...

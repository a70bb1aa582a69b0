"""What every engine is: frames and a waveform in, finished full frames out.

A pipeline never opens a file, parses JSON or knows a job. It may read the source's frames as
often as it needs, in any order, through :class:`FrameSource`; it must not keep them.
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
    """The source video at a constant 25 fps, upright, readable again and again."""

    @property
    def num_frames(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...

    def read(self, indices: Iterable[int]) -> Iterator[Frame]:
        """Yield the frames with these numbers, in this order, each H,W,3 uint8 RGB.

        Runs of rising or falling numbers are cheap. Memory stays bounded whatever the order.
        """
        ...


@dataclass(frozen=True, eq=False)
class Utterance:
    """What one speaker says in one stretch of the output.

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

    frames_without_face: int = 0  # output frames in which a speaker's face was not to be found
    faces_found: int = 0  # different people seen in the source


@dataclass(frozen=True)
class Generation:
    """The running work of a pipeline: take ``frames`` to the end, then read ``report``.

    Whoever stops before the end closes ``frames``, which ends what still works for them.
    """

    frames: Generator[Frame, None, None]
    report: GenerationReport


# Options of a run that are an engine's own; the others are used whichever engine it is.
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
        options_used: those of :data:`ENGINE_OPTIONS` that change what it makes.
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
        """Make the lips of ``source`` say ``utterances``.

        Args:
            source: the source video.
            utterances: what is said where and by whom, at least one. Frames that none covers pass
                through unchanged; those of different people may overlap.
            frame_indices: int64 (num_output_frames,): the source frame shown by each output frame.
            options: the run's options.
            monitor: progress, stage seconds, cancellation.

        Returns:
            Generation with exactly ``len(frame_indices)`` frames of the source's size.

        Raises:
            NoFace: a speaker has no usable face where it speaks.
            InvalidField: nobody is where a speaker was said to be, or two utterances at once move
                the same lips.
        """
        ...

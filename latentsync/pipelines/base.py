"""What every engine is: frames and a waveform in, finished full frames out.

A pipeline never opens a file, parses JSON or knows a job. It may read the source's frames as
often as it needs, in any order, through :class:`FrameSource`; it must not keep them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from latentsync.device import has_cuda
from latentsync.engines import AUTO, AUTO_ELSEWHERE, AUTO_ON_GPU, ENGINES, unknown_engine
from latentsync.errors import LatentSyncError
from latentsync.fields import Speaker
from latentsync.formats import Frame, Waveform
from latentsync.monitor import RunMonitor, never
from latentsync.pipelines.availability import refused_import, require_packages
from latentsync.request import RunOptions
from latentsync.settings import Settings

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


BuildEngine = Callable[[str, Settings, Callable[[], None]], Pipeline]

# Imported on first use: no engine's packages load before that.
_ENGINES = {name: spec.builder for name, spec in ENGINES.items()}


def resolve_engine(name: str) -> str:
    """Return the engine that ``auto`` stands for here: LatentSync on a GPU machine, else draft.

    Any other name is returned as it is.

    Raises:
        EngineUnavailable: there is a GPU that cannot be used.
    """
    if name != AUTO:
        return name
    return AUTO_ON_GPU if has_cuda() else AUTO_ELSEWHERE


def build_pipeline(name: str, settings: Settings, check: Callable[[], None] = never) -> Pipeline:
    """Build the engine called ``name``.

    Args:
        name: a name of :data:`latentsync.fields.EngineName`.
        settings: device, type of numbers, weights.
        check: called while weights are fetched; may raise to stop.

    Raises:
        EngineUnavailable: the name is unknown, or the engine cannot run here.
    """
    name = resolve_engine(name)
    build = import_engine(name, settings)
    with _import_failures_explained(name, settings, ImportError):
        return build(name, settings, check)


def import_engine(name: str, settings: Settings | None = None) -> BuildEngine:
    """Import what an engine is made of, and return the function that builds it.

    Building asks for the device, importing does not.

    Args:
        name: as for :func:`build_pipeline`, but not ``auto``, which depends on the device.
        settings: by which an error names the engines that can run; by default the environment's.

    Raises:
        EngineUnavailable: the name is unknown, or a package is missing or cannot be imported.
    """
    if name not in _ENGINES:
        raise unknown_engine(name)
    settings = settings or Settings()
    require_packages(name, settings)
    module_name, function_name = _ENGINES[name]
    build: BuildEngine
    with _import_failures_explained(name, settings, Exception):  # a broken package raises anything
        build = getattr(import_module(module_name), function_name)
    return build


@contextmanager
def _import_failures_explained(
    name: str, settings: Settings, kind: type[Exception]
) -> Iterator[None]:
    """Turn the failure of another package's import into EngineUnavailable; the log has it whole."""
    try:
        yield
    except LatentSyncError:
        raise
    except kind as error:
        if (refusal := refused_import(name, error, settings)) is None:
            raise
        # No louder than that: the error itself is told, and the command line tells one line.
        logger.info("engine %s cannot be imported", name, exc_info=error)
        raise refusal from error

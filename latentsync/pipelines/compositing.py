"""Combines several utterances in one video, each of which changes its speaker's lips.

An engine yields one edit per frame of an utterance. Here the edits of all utterances, which may
overlap, are applied to the output frames.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latentsync.errors import InvalidField, NoFace
from latentsync.face.speaker import Choice, check_frame
from latentsync.formats import VIDEO_FPS, Frame
from latentsync.pipelines.base import FrameSource, GenerationReport, Utterance

_FADE_FRAMES = 3  # between unchanged and generated lips: 0.12 s


@dataclass(frozen=True, eq=False)
class FrameEdit:
    """The edit of one output frame by one utterance.

    Attributes:
        frame: the source frame, H,W,3 uint8 RGB.
        speak: returns a copy of a frame with the speaker's lips changed; None where the speaker's
            face is not found.
    """

    frame: Frame
    speak: Callable[[Frame], Frame] | None


FrameEdits = Generator[FrameEdit, None, None]


def choices_of(utterances: Sequence[Utterance], num_source_frames: int) -> list[Choice]:
    """Return the speaker of each utterance.

    Raises:
        InvalidField: the source does not have the speaker's frame.
    """
    choices = [Choice(one.speaker, one.field) for one in utterances]
    for choice in choices:
        check_frame(choice, num_source_frames)
    return choices


def num_frames_searched(
    frame_indices: NDArray[np.int64], utterances: Sequence[Utterance], num_source_frames: int
) -> int:
    """Return how many frames from the start of the source must be searched for the speakers."""
    last = max(int(frame_indices[one.start : one.stop].max()) for one in utterances)
    asked = [one.speaker.frame for one in utterances if not isinstance(one.speaker, str)]
    return min(max([last, *asked]) + 1, num_source_frames)


def check_seen(
    utterances: Sequence[Utterance],
    frame_indices: NDArray[np.int64],
    present: Sequence[NDArray[np.bool_]],
) -> None:
    """Raise NoFace if a speaker has no usable face in any frame of an utterance.

    Args:
        utterances: at least one.
        frame_indices: int64 (frames,), the source frame of every output frame.
        present: for each utterance bool (source frames,): where its speaker's face is usable.
    """
    for one, where in zip(utterances, present, strict=True):
        if not where[frame_indices[one.start : one.stop]].any():
            raise NoFace(
                f"{one.field}: the speaker has no usable face in any frame from "
                f"{one.start / VIDEO_FPS:g} to {one.stop / VIDEO_FPS:g} s.",
                field=one.field,
            )


def check_mouths(utterances: Sequence[Utterance], faces: Sequence[int]) -> None:
    """Raise InvalidField if overlapping utterances have the same speaker.

    Args:
        utterances: at least one.
        faces: number of the face of each.
    """
    for later in range(len(utterances)):
        for earlier in range(later):
            one, other = utterances[earlier], utterances[later]
            at = max(one.start, other.start)
            if faces[earlier] == faces[later] and at < min(one.stop, other.stop):
                raise InvalidField(
                    f"{other.field} is the same person as {one.field}, and both speak at "
                    f"{at / VIDEO_FPS:g} s. Name different people, or separate them in time.",
                    field=other.field,
                )


def composite(
    source: FrameSource,
    frame_indices: NDArray[np.int64],
    utterances: Sequence[Utterance],
    faces: Sequence[int],
    begin: Callable[[int], FrameEdits],
    report: GenerationReport,
) -> Generator[Frame, None, None]:
    """Yield the output frames.

    Args:
        source: the source video.
        frame_indices: int64 (frames,), the source frame of every output frame.
        utterances: at least one.
        faces: number of the face of each.
        begin: starts an utterance, given its number; yields one edit for each of its frames.
        report: counts the frames in which a face is missing.
    """
    fades = [_fades(n, utterances, faces, len(frame_indices)) for n in range(len(utterances))]
    with ExitStack() as begun:
        edits: dict[int, FrameEdits] = {}
        for start, stop in _intervals(utterances, len(frame_indices)):
            inside = [n for n, one in enumerate(utterances) if one.start <= start < one.stop]
            if not inside:
                yield from source.read(frame_indices[start:stop])
                continue
            for number in inside:
                if number not in edits:
                    edits[number] = begun.enter_context(closing(begin(number)))
            for index in range(start, stop):
                together = [next(edits[number]) for number in inside]
                report.frames_without_face += any(edit.speak is None for edit in together)
                yield _apply_edits(together, [fades[number].weight(index) for number in inside])


def _intervals(utterances: Sequence[Utterance], num_frames: int) -> Iterator[tuple[int, int]]:
    """Yield the intervals of the output with the same set of utterances, in order."""
    edges = {0, num_frames}
    for one in utterances:
        edges |= {one.start, one.stop}
    ordered = sorted(edges)
    yield from zip(ordered, ordered[1:], strict=False)


def _apply_edits(edits: Sequence[FrameEdit], weights: Sequence[float]) -> Frame:
    """Return the frame with the edits of all speakers."""
    frame = edits[0].frame
    for edit, weight in zip(edits, weights, strict=True):
        if edit.speak is not None:
            spoken = edit.speak(frame)
            frame = spoken if weight == 1 else _blend(frame, spoken, weight)
    return frame


@dataclass(frozen=True)
class _Fades:
    """Where an utterance fades from and to the unchanged lips of the source."""

    first: int
    last: int
    fades_in: bool
    fades_out: bool

    def weight(self, index: int) -> float:
        """Return the opacity of the generated lips in an output frame, 0..1."""
        steps = [_FADE_FRAMES + 1]
        if self.fades_in:
            steps.append(index - self.first + 1)
        if self.fades_out:
            steps.append(self.last - index + 1)
        return min(steps) / (_FADE_FRAMES + 1)


def _fades(
    number: int, utterances: Sequence[Utterance], faces: Sequence[int], num_frames: int
) -> _Fades:
    """Return the fades of an utterance; none where the same face continues to speak."""
    one = utterances[number]
    same = [other for other, face in zip(utterances, faces, strict=True) if face == faces[number]]
    return _Fades(
        first=one.start,
        last=one.stop - 1,
        fades_in=one.start > 0 and all(other.stop != one.start for other in same),
        fades_out=one.stop < num_frames and all(other.start != one.stop for other in same),
    )


def _blend(before: Frame, after: Frame, weight: float) -> Frame:
    """Blend ``after`` over ``before`` with this weight, rounded; equal pixels stay equal."""
    mixed = before + (after.astype(np.float32) - before) * np.float32(weight)
    return np.rint(mixed).astype(np.uint8)

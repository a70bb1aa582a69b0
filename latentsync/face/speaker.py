"""Chooses the speaker: by the request, or the largest and steadiest face of the clip."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from latentsync.errors import InvalidField, NoFace
from latentsync.face.geometry import Box, center, contains, overlap
from latentsync.face.track import FaceTrack
from latentsync.schema.fields import Speaker, SpeakerBox, SpeakerPoint

_NEAREST = 0.5  # of the face's longer side: largest distance of a point from the face
_LEAST_OVERLAP = 0.1  # of a caller's box with a face
_FACES_NAMED = 4  # in a message


@dataclass(frozen=True)
class Choice:
    """A caller's choice of a speaker; ``field`` is the request's field, for messages."""

    speaker: Speaker = "auto"
    field: str = "speaker"


def check_frame(choice: Choice, num_frames: int) -> None:
    """Raise InvalidField if the clip does not have the frame of the choice."""
    speaker, field = choice.speaker, choice.field
    if not isinstance(speaker, str) and speaker.frame >= num_frames:
        raise InvalidField(
            f"{field}.frame is {speaker.frame}, but the video has {num_frames} frames "
            f"(allowed: 0 to {num_frames - 1}).",
            field=field,
        )


def choose_speaker(tracks: Sequence[FaceTrack], choice: Choice, num_frames: int) -> int:
    """Return the index of the speaker's track.

    Args:
        tracks: every usable face of the clip.
        choice: "auto", or a frame with a point or a box.
        num_frames: frames of the clip.

    Raises:
        NoFace: there are no tracks.
        InvalidField: the clip does not have the frame, or there is no face at the position.
    """
    check_frame(choice, num_frames)
    if not tracks:
        raise NoFace(_no_face(num_frames))
    chosen = _choose(tracks, choice)
    return next(number for number, track in enumerate(tracks) if track is chosen)


def _choose(tracks: Sequence[FaceTrack], choice: Choice) -> FaceTrack:
    speaker, field = choice.speaker, choice.field
    if isinstance(speaker, str):
        return max(tracks, key=_prominence)
    faces = _faces_in(tracks, speaker.frame)
    chosen = (
        _at_point(faces, speaker) if isinstance(speaker, SpeakerPoint) else _in_box(faces, speaker)
    )
    if chosen is None:
        raise InvalidField(_no_face_there(faces, speaker, field), field=field)
    return chosen


def _no_face(num_frames: int) -> str:
    if num_frames == 1:
        return "No usable face in the only frame."
    return f"No usable face in any of the {num_frames} frames."


def _prominence(track: FaceTrack) -> float:
    """Return the mean area in square pixels times the share of frames times the steadiness."""
    size = track.points.max(axis=1) - track.points.min(axis=1)
    return float(size.prod(axis=1).mean()) * track.frames_present / track.num_frames * _calm(track)


def _calm(track: FaceTrack) -> float:
    """Return the steadiness: 1 at rest, 1/2 for motion of 0.1 face sizes per frame."""
    middles = track.points.mean(axis=1, dtype=np.float64)
    size = float((track.points.max(axis=1) - track.points.min(axis=1)).mean())
    together = (np.diff(track.frames) == 1) & (np.diff(track.shots) == 0)
    steps = np.linalg.norm(np.diff(middles, axis=0), axis=1)[together]
    return 1.0 if len(steps) == 0 else 1 / (1 + 10 * float(np.median(steps)) / size)


def _faces_in(tracks: Sequence[FaceTrack], frame: int) -> list[tuple[FaceTrack, Box]]:
    boxes = ((track, track.box_at(frame)) for track in tracks)
    return [(track, box) for track, box in boxes if box is not None]


def _at_point(faces: list[tuple[FaceTrack, Box]], speaker: SpeakerPoint) -> FaceTrack | None:
    """Return the face that contains the point, else the nearest one within reach."""
    inside = [face for face in faces if contains(face[1], *speaker.point)]
    near = inside or [
        face for face in faces if math.dist(center(face[1]), speaker.point) <= _reach(face[1])
    ]
    if not near:
        return None
    return min(near, key=lambda face: math.dist(center(face[1]), speaker.point))[0]


def _reach(box: Box) -> float:
    longer = max(box[2] - box[0], box[3] - box[1])
    return longer * (0.5 + _NEAREST)


def _in_box(faces: list[tuple[FaceTrack, Box]], speaker: SpeakerBox) -> FaceTrack | None:
    """Return the face with the largest overlap with the given box."""
    best = max(faces, key=lambda face: overlap(face[1], speaker.box), default=None)
    if best is None or overlap(best[1], speaker.box) < _LEAST_OVERLAP:
        return None
    return best[0]


def _no_face_there(
    faces: list[tuple[FaceTrack, Box]], speaker: SpeakerPoint | SpeakerBox, field: str
) -> str:
    what, where = (
        ("point", speaker.point) if isinstance(speaker, SpeakerPoint) else ("box", speaker.box)
    )
    place = f"{field}.{what} {_numbers(where)} matches no usable face in frame {speaker.frame}"
    if not faces:
        return f"{place}: there is none."
    boxes = ", ".join(_numbers(box) for _, box in faces[:_FACES_NAMED])
    return f"{place}. Faces in it (x1, y1, x2, y2): {boxes}."


def _numbers(values: Sequence[float]) -> str:
    return f"[{', '.join(f'{value:.0f}' for value in values)}]"

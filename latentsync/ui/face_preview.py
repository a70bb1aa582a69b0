"""One frame of a video with its faces numbered.

Run as ``python -m latentsync.ui.face_preview VIDEO N OUT``.

Prints what :class:`Still` holds.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentsync.ui.subprocess import answer_with, ask_child

Box = tuple[float, float, float, float]

_SIDE_MAX = 960  # pixels of the longer side of what is shown
_FACES_MAX = 8
_LINE = (255, 190, 0)  # RGB
_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Still:
    """A picture of a video, written as a JPEG that may be smaller than the picture.

    Attributes:
        frame: its number at 25 fps.
        num_frames: of the whole video.
        scale: pixels of the JPEG over pixels of the video.
        faces: boxes x1, y1, x2, y2 in pixels of the video, from left to right.
    """

    frame: int
    num_frames: int
    scale: float
    faces: list[Box]

    def face_at(self, x: float, y: float) -> int | None:
        """Return which face's box holds a point in pixels of the video, or None."""
        for number, (x1, y1, x2, y2) in enumerate(self.faces):
            if x1 <= x <= x2 and y1 <= y <= y2:
                return number
        return None


async def take_still(video: Path, share: float, target: Path) -> Still:
    """Write a picture of ``video`` to ``target`` with its faces numbered.

    Args:
        video: the file.
        share: where in the video, 0 is the first picture and 1 the last.
        target: the JPEG.

    Raises:
        MediaError: the video cannot be used.
        CodecFailed, DeadlineExceeded: see :func:`latentsync.ui.subprocess.ask_child`.
    """
    said = await ask_child(__name__, str(video), str(share), str(target), timeout_s=_TIMEOUT_S)
    return Still(**said)


def look(video: str, share: str, target: str) -> dict[str, Any]:
    """Do what :func:`take_still` asks for."""
    import cv2

    from latentsync.face.blazeface import FaceDetector
    from latentsync.media.probe import probe_video
    from latentsync.media.reader import VideoReader
    from latentsync.settings import Settings

    info = probe_video(Path(video), Settings(), "video")
    number = round(min(max(float(share), 0.0), 1.0) * (info.num_frames - 1))
    frame = next(VideoReader(Path(video), info).read([number]))
    found = sorted(FaceDetector().search(frame), key=lambda face: -_area(face.box))[:_FACES_MAX]
    faces = sorted(face.box for face in found)
    scale = min(1.0, _SIDE_MAX / max(info.width, info.height))
    size = (math.ceil(info.width * scale), math.ceil(info.height * scale))
    shown = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    for position, box in enumerate(faces, start=1):
        _draw(shown, [round(value * scale) for value in box], str(position))
    cv2.imwrite(target, cv2.cvtColor(shown, cv2.COLOR_RGB2BGR))
    return {"frame": number, "num_frames": info.num_frames, "scale": scale, "faces": faces}


def _draw(picture: Any, box: list[int], name: str) -> None:
    import cv2

    x1, y1, x2, y2 = box
    cv2.rectangle(picture, (x1, y1), (x2, y2), _LINE, 2)
    cv2.rectangle(picture, (x1, y1), (x1 + 26, y1 + 28), _LINE, cv2.FILLED)
    cv2.putText(picture, name, (x1 + 5, y1 + 22), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (0, 0, 0), 2)


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


if __name__ == "__main__":
    answer_with(look)

"""Media analysis for the page, in a child process: a codec that crashes does not end the server.

The child prints one JSON object: the fields of the result, or those of an error.

    python -m latentsync.ui.analysis preview VIDEO SHARE OUTPUT     the fields of FacePreview
    python -m latentsync.ui.analysis curves VIDEO                   the fields of Curves
"""

import asyncio
import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentsync.errors import CodecFailed, DeadlineExceeded, LatentSyncError, error_from_code

Box = tuple[float, float, float, float]

_ERROR_EXIT_CODE = 3  # of a child that prints an error
_slots = asyncio.Semaphore(2)  # more children would slow down the jobs on this machine
_PREVIEW_TIMEOUT_S, _CURVES_TIMEOUT_S = 60.0, 90.0

_SIDE_MAX = 960  # pixels of the longer side of a preview
_FACES_MAX = 8
_LINE = (255, 190, 0)  # RGB
_PEAKS = 400
_FRAMES_MAX = 750  # 30 s; longer videos would take too long for an interactive page


@dataclass(frozen=True)
class FacePreview:
    """A frame of a video with numbered faces, written as a JPEG that may be smaller.

    Attributes:
        frame: number of the frame at 25 fps.
        num_frames: frames of the whole video.
        scale: pixels of the JPEG per pixel of the video.
        faces: boxes x1, y1, x2, y2 in pixels of the video, from left to right.
    """

    frame: int
    num_frames: int
    scale: float
    faces: list[Box]

    def face_at(self, x: float, y: float) -> int | None:
        """Return the index of the face whose box contains a point in pixels of the video."""
        for number, (x1, y1, x2, y2) in enumerate(self.faces):
            if x1 <= x <= x2 and y1 <= y <= y2:
                return number
        return None


@dataclass(frozen=True)
class Curves:
    """Loudness and mouth opening of a finished video.

    Attributes:
        duration_s: of the video.
        peaks: largest amplitude in each of equal parts of the sound, 0..1.
        gaps: lip gap of the speaker in every frame, relative to the distance of the outer eye
            corners, None where no face is found; empty if the video is too long to be measured.
    """

    duration_s: float
    peaks: list[float]
    gaps: list[float | None]


async def preview_faces(video: Path, share: float, target: Path) -> FacePreview:
    """Write a frame of ``video`` to ``target`` with its faces numbered.

    Args:
        video: the file.
        share: position in the video, from 0 for the first frame to 1 for the last.
        target: the JPEG.

    Raises:
        MediaError: the video cannot be used.
        CodecFailed, DeadlineExceeded: see :func:`run_module`.
    """
    arguments = ("preview", str(video), str(share), str(target))
    return FacePreview(**await run_module(__name__, *arguments, timeout_s=_PREVIEW_TIMEOUT_S))


async def measure_curves(video: Path) -> Curves:
    """Measure a finished video.

    Raises:
        MediaError: the video cannot be used.
        CodecFailed, DeadlineExceeded: see :func:`run_module`.
    """
    return Curves(**await run_module(__name__, "curves", str(video), timeout_s=_CURVES_TIMEOUT_S))


async def run_module(module: str, *arguments: str, timeout_s: float) -> dict[str, Any]:
    """Run a module in a child process and return the JSON object that it prints.

    Args:
        module: its full name.
        arguments: of the command line.
        timeout_s: the child is killed after this time, or when the caller is cancelled.

    Raises:
        DeadlineExceeded: the child took too long.
        CodecFailed: the child crashed.
        LatentSyncError: the error that the child printed.
    """
    async with _slots:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module, *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C at the terminal is for the server
        )
        try:
            async with asyncio.timeout(timeout_s):
                printed, _ = await process.communicate()
        except TimeoutError:
            raise DeadlineExceeded(f"The analysis took longer than {timeout_s:g} s.") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    if process.returncode not in (0, _ERROR_EXIT_CODE):
        raise CodecFailed("The file could not be analysed.")
    result: dict[str, Any] = json.loads(printed)
    if process.returncode == _ERROR_EXIT_CODE:
        raise error_from_code(result["code"], result["message"], result["field"])
    return result


def _preview(video: str, share: str, target: str) -> dict[str, Any]:
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


def _curves(video: str) -> dict[str, Any]:
    import numpy as np

    from latentsync.media.probe import probe_audio, probe_video
    from latentsync.media.sound import read_waveform
    from latentsync.settings import Settings

    path, settings = Path(video), Settings()
    info = probe_video(path, settings, "video")
    waveform = read_waveform(path, probe_audio(path, settings, "video"))
    parts = np.array_split(np.abs(waveform), min(_PEAKS, len(waveform)))
    return {
        "duration_s": info.duration_s,
        "peaks": [round(min(float(part.max()), 1.0), 3) for part in parts],
        "gaps": _lip_gaps(path, info) if info.num_frames <= _FRAMES_MAX else [],
    }


def _lip_gaps(path: Path, info: Any) -> list[float | None]:
    """Measure the face that is present in the most frames."""
    import numpy as np

    from latentsync.face.tracker import track_faces
    from latentsync.media.reader import VideoReader

    tracks = track_faces(VideoReader(path, info).read(range(info.num_frames)))
    if not tracks:
        return []
    gaps = max(tracks, key=lambda track: track.frames_present).lip_gaps
    return [None if np.isnan(gap) else round(float(gap), 4) for gap in gaps]


_COMMANDS: dict[str, Callable[..., dict[str, Any]]] = {"preview": _preview, "curves": _curves}


def main() -> None:
    """Run the command in ``sys.argv`` and print its result."""
    command, *arguments = sys.argv[1:]
    try:
        result, exit_code = _COMMANDS[command](*arguments), 0
    except LatentSyncError as error:
        result, exit_code = error.to_dict(), _ERROR_EXIT_CODE
    sys.stdout.write(json.dumps(result))
    sys.exit(exit_code)


if __name__ == "__main__":
    main()

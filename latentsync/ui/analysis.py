"""Loudness and lip gap of a finished video: ``python -m latentsync.ui.analysis VIDEO``.

Prints what :class:`Curve` holds.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentsync.ui.subprocess import answer_with, ask_child

_PEAKS = 400
_FRAMES_MAX = 750  # half a minute; longer videos take too long while somebody waits
_TIMEOUT_S = 90.0


@dataclass(frozen=True)
class Curve:
    """A finished video in numbers.

    Attributes:
        duration_s: of the video.
        peaks: largest amplitude in each of equal parts of the sound, 0..1.
        gaps: lip gap of the speaker in every frame, in shares of the distance of the outer eye
            corners, None where no face is seen; empty if the video is too long to be measured.
    """

    duration_s: float
    peaks: list[float]
    gaps: list[float | None]


async def measure_curve(video: Path) -> Curve:
    """Measure a finished video; raises as :func:`ask_child` does, and MediaError."""
    return Curve(**await ask_child(__name__, str(video), timeout_s=_TIMEOUT_S))


def look(video: str) -> dict[str, Any]:
    """Do what :func:`measure_curve` asks for."""
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
    """Measure the face that is seen the longest."""
    import numpy as np

    from latentsync.face.tracker import track_faces
    from latentsync.media.reader import VideoReader

    tracks = track_faces(VideoReader(path, info).read(range(info.num_frames)))
    if not tracks:
        return []
    gaps = max(tracks, key=lambda track: track.frames_present).lip_gaps
    return [None if np.isnan(gap) else round(float(gap), 4) for gap in gaps]


if __name__ == "__main__":
    answer_with(look)

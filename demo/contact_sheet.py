"""A picture of a result: faces of the source and of the result, and the sound below them."""

from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from latentsync.face.track import FaceTrack
from latentsync.face.tracker import track_faces
from latentsync.formats import VIDEO_FPS, Frame, Waveform
from latentsync.media.probe import probe_audio
from latentsync.media.sound import read_waveform
from latentsync.media.timeline import plan_frames
from latentsync.pipelines.draft.phones import HOP_S, measure_loudness_db
from latentsync.schema.fields import SyncMode
from latentsync.settings import Settings

COLUMNS = 8
TILE = 200  # pixels
MARGIN = 64  # left of the rows, for their names
STRIP = 150  # height of the sound
INK, PAPER = (32, 32, 36), (250, 250, 248)
SOUND, GAP = (126, 158, 201), (206, 66, 54)

Picture = NDArray[np.uint8]


def draw_sheet(source: Path, result: Path, audio: Path, output: Path) -> Path:
    """Save a PNG with a row of the source, a row of the result and the sound with the lip gap.

    Args:
        source: the source video.
        result: the finished video of the same person.
        audio: the speech.
        output: the PNG to write.

    Returns:
        ``output``.
    """
    before, after = read_frames(source), read_frames(result)
    track = track_faces(iter(after))[0]
    chosen = np.linspace(0, len(after) - 1, COLUMNS + 2)[1:-1].astype(int)
    shown = plan_frames(SyncMode.BOUNCE, len(before), len(after) / VIDEO_FPS)
    rows = [
        face_row("source", [before[shown[i]] for i in chosen], chosen, track),
        face_row("result", [after[i] for i in chosen], chosen, track),
        sound_row(read_speech(audio), len(after), track, chosen),
    ]
    sheet = np.concatenate(rows)
    if not cv2.imwrite(str(output), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR)):
        raise OSError(f"cannot write {output.name}")
    return output


def read_frames(path: Path) -> list[Frame]:
    """Return every frame of a short video, H,W,3 uint8 RGB."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def read_speech(path: Path) -> Waveform:
    """Return the sound as float32 mono 16 kHz."""
    return read_waveform(path, probe_audio(path, Settings(), "audio"))


def face_row(
    name: str, frames: list[Frame], numbers: NDArray[np.int_], track: FaceTrack
) -> Picture:
    """Return the cut-out faces side by side, with the row's name."""
    tiles = [face_tile(frame, track, int(n)) for frame, n in zip(frames, numbers, strict=True)]
    row = np.concatenate([paper(TILE, MARGIN), *tiles], axis=1)
    write(row, name, (8, TILE // 2), INK)
    return row


def face_tile(frame: Frame, track: FaceTrack, number: int) -> Picture:
    """Return the face, TILE x TILE, cut out at a fixed position in the whole clip."""
    x1, y1, x2, y2 = (float(value) for value in np.nanmedian(track.boxes, axis=0))
    side = 1.06 * max(x2 - x1, y2 - y1)
    middle_x, middle_y = (x1 + x2) / 2, (y1 + y2) / 2 + 0.06 * side
    scale = TILE / side
    matrix = np.array(
        [[scale, 0, TILE / 2 - scale * middle_x], [0, scale, TILE / 2 - scale * middle_y]]
    )
    tile = cv2.warpAffine(frame, matrix, (TILE, TILE), flags=cv2.INTER_AREA)
    write(tile, f"{number / VIDEO_FPS:.2f} s", (6, TILE - 8), (255, 255, 255))
    return np.asarray(tile, dtype=np.uint8)


def sound_row(
    speech: Waveform, num_frames: int, track: FaceTrack, chosen: NDArray[np.int_]
) -> Picture:
    """Return the loudness over time with the lip gap measured in the result over it."""
    row = paper(STRIP, MARGIN + COLUMNS * TILE)
    width, middle, seconds = COLUMNS * TILE, STRIP // 2, num_frames / VIDEO_FPS
    level = 10 ** (measure_loudness_db(speech) / 20)
    half = level / max(float(level.max(initial=0.0)), 1e-9) * (STRIP * 0.42)
    for x in range(width):
        hop = min(int(x / width * seconds / HOP_S), len(half) - 1)
        reach = int(half[hop])
        row[middle - reach : middle + reach + 1, MARGIN + x] = SOUND
    gap = track.lip_gaps
    height = (gap - np.nanmin(gap)) / max(float(np.nanmax(gap) - np.nanmin(gap)), 1e-9)
    line = [
        (MARGIN + int((i + 0.5) / num_frames * width), int(STRIP - 10 - value * (STRIP - 24)))
        for i, value in enumerate(height)
        if np.isfinite(value)
    ]
    cv2.polylines(row, [np.array(line, np.int32)], False, GAP, 2, cv2.LINE_AA)
    for number in chosen:
        x = MARGIN + int((number + 0.5) / num_frames * width)
        cv2.line(row, (x, 0), (x, 7), INK, 1)
    write(row, "sound", (8, 26), SOUND)
    write(row, "lip gap", (8, 48), GAP)
    return row


def paper(height: int, width: int) -> Picture:
    """Return an empty piece of the sheet."""
    return np.full((height, width, 3), PAPER, np.uint8)


def write(picture: Picture, text: str, place: tuple[int, int], colour: tuple[int, ...]) -> None:
    """Write a line of text, its left end on the base line at ``place`` (x, y)."""
    cv2.putText(picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, 1, cv2.LINE_AA)

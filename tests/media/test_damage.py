"""Files with a few wrong bytes: read, or refused with one of our own errors; nothing else."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from latentsync.errors import LatentSyncError
from latentsync.media.probe import probe_audio, probe_video
from latentsync.media.reader import VideoReader
from latentsync.media.sound import read_sound, read_waveform
from latentsync.settings import Settings
from tests.media.makers import make_sound, make_video, tone

CASES = 30  # of each kind of file, the same ones in every run


def damaged(data: bytes, chance: random.Random) -> bytes:
    """Change up to 20 bytes, headers more often than the rest, and sometimes lose a few."""
    wrong = bytearray(data)
    for _ in range(chance.choice((1, 3, 20))):
        reach = chance.choice((len(wrong), min(len(wrong), 1000)))
        wrong[chance.randrange(reach)] = chance.randrange(256)
    if chance.random() < 0.2:
        start = chance.randrange(len(wrong))
        del wrong[start : start + chance.randrange(200)]
    return bytes(wrong)


def read_there_and_back(path: Path, settings: Settings) -> None:
    info = probe_video(path, settings, "video")
    reader = VideoReader(path, info)
    indices = [*range(reader.num_frames)][:30]
    shapes = {frame.shape for frame in reader.read(indices + indices[::-1])}
    assert shapes == {(info.height, info.width, 3)}


def hear(path: Path, settings: Settings) -> None:
    info = probe_audio(path, settings, "audio")
    heard_s = read_waveform(path, info).size / 16_000
    samples = sum(block.shape[1] for block in read_sound(path, info).blocks)
    assert heard_s == pytest.approx(samples / info.sample_rate, abs=0.1)


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [
        *(("mp4", "libx264"), ("mkv", "libx264"), ("flv", "libx264"), ("ts", "libx264")),
        *(("avi", "mpeg4"), ("webm", "libvpx")),
        *(("wav", "pcm_s16le"), ("mp3", "libmp3lame"), ("m4a", "aac"), ("flac", "flac")),
    ],
)
def test_damaged_files_are_read_or_refused_in_plain_words(
    tmp_path: Path, settings: Settings, suffix: str, codec: str
) -> None:
    is_sound = suffix in ("wav", "mp3", "m4a", "flac")
    source = tmp_path / f"whole.{suffix}"
    if is_sound:
        make_sound(source, tone(0.5, 16_000), codec=codec)
    else:
        make_video(source, 12, codec=codec)
    strict = settings.model_copy(update={"max_pixels": 512 * 512})
    chance = random.Random(suffix)
    refusals: list[LatentSyncError] = []
    for _ in range(CASES):
        path = tmp_path / "damaged"
        path.write_bytes(damaged(source.read_bytes(), chance))
        try:
            (hear if is_sound else read_there_and_back)(path, strict)
        except LatentSyncError as error:
            refusals.append(error)
    assert len(refusals) < CASES, "not every damage makes a file unreadable"
    assert all(400 <= error.status < 500 for error in refusals)
    assert not any(str(tmp_path) in error.message for error in refusals)

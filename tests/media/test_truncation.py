"""Sound written to a pipe has placeholders for its length and is whole; a truncated file is not."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from latentsync import errors
from latentsync.media.probe import probe_audio, probe_video
from latentsync.media.sound import read_waveform
from latentsync.settings import Settings
from tests.media.corpus import Clip, Sound, write
from tests.media.makers import make_sound, make_video, tone

SECONDS, RATE = 1.3, 16_000


def little(number: int) -> bytes:
    return struct.pack("<I", number)


def big(number: int) -> bytes:
    return struct.pack(">I", number)


def after(data: bytes, name: bytes, size: bytes) -> bytes:
    """Replace the bytes that follow a name."""
    at = data.index(name) + len(name)
    return data[:at] + size + data[at + len(size) :]


PLACEHOLDERS = (0, 2_000_000_000, 0x7FFFF000, 0x7FFFFFFF, 0xFFFFFFFF, 0xFFFFFFDB)


@pytest.mark.parametrize("riff", [*PLACEHOLDERS, 36, None])
@pytest.mark.parametrize("samples", PLACEHOLDERS)
def test_a_wav_with_placeholders_is_whole(
    tmp_path: Path, settings: Settings, riff: int | None, samples: int
) -> None:
    path = make_sound(tmp_path / "a.wav", tone(SECONDS, RATE), RATE)
    data = after(path.read_bytes(), b"data", little(samples))
    path.write_bytes(data if riff is None else after(data, b"RIFF", little(riff)))
    check_whole(path, settings)


def check_whole(path: Path, settings: Settings) -> None:
    info = probe_audio(path, settings, "audio")
    assert info.duration_s == pytest.approx(SECONDS, abs=0.001)
    waveform = read_waveform(path, info)
    assert waveform.size / 16_000 == pytest.approx(SECONDS, abs=0.001)
    assert np.abs(waveform).max() == pytest.approx(0.5, abs=0.02)


def make_au(path: Path) -> Path:
    samples = (tone(SECONDS, RATE) * 32767).astype(">i2").tobytes()
    header = struct.pack(">4sIIIII", b".snd", 24, len(samples), 3, RATE, 1)
    path.write_bytes(header + samples)
    return path


def make_caf(path: Path) -> Path:
    samples = (tone(SECONDS, RATE) * 32767).astype(">i2").tobytes()
    layout = struct.pack(">d4sIIIII", RATE, b"lpcm", 0, 2, 1, 1, 16)
    description = struct.pack(">4sq", b"desc", len(layout)) + layout
    sound = struct.pack(">4sqI", b"data", 4 + len(samples), 0) + samples
    path.write_bytes(struct.pack(">4sHH", b"caff", 1, 0) + description + sound)
    return path


def make_aiff(path: Path) -> Path:
    return make_sound(path, tone(SECONDS, RATE), RATE, codec="pcm_s16be")


def make_wav(path: Path) -> Path:
    return make_sound(path, tone(SECONDS, RATE), RATE)


def make_wma(path: Path) -> Path:
    return write(Clip("wma", "asf", None, Sound("wmav2", 44_100, bit_rate=96_000)), path.parent)


def make_flac(path: Path) -> Path:
    return make_sound(path, tone(SECONDS, RATE), RATE, codec="flac")


@pytest.mark.parametrize(
    ("make", "suffix", "name", "size"),
    [
        (make_caf, "caf", b"data", struct.pack(">q", -1)),
        (make_au, "au", b".snd\0\0\0\x18", big(0xFFFFFFFF)),
        (make_wav, "wav", b"RIFF", little(round(SECONDS * RATE) * 2 + 44)),  # counts its header
    ],
)
def test_other_sound_of_unknown_length_is_whole(
    tmp_path: Path,
    settings: Settings,
    make: Callable[[Path], Path],
    suffix: str,
    name: bytes,
    size: bytes,
) -> None:
    path = make(tmp_path / f"a.{suffix}")
    path.write_bytes(after(path.read_bytes(), name, size))
    check_whole(path, settings)


def test_a_wav_that_counts_a_missing_byte_of_padding_is_whole(
    tmp_path: Path, settings: Settings
) -> None:
    path = make_sound(tmp_path / "a.wav", tone(SECONDS, RATE), RATE, codec="pcm_u8")
    data = path.read_bytes()
    path.write_bytes(after(data, b"data", little(round(SECONDS * RATE) + 1)))
    check_whole(path, settings)


@pytest.mark.parametrize(
    ("make", "suffix"),
    [
        (make_wav, "wav"),
        (make_aiff, "aiff"),
        (make_au, "au"),
        (make_caf, "caf"),
        (make_flac, "flac"),
        (make_wma, "wma"),
    ],
)
def test_sound_that_does_not_reach_its_length_is_refused(
    tmp_path: Path, settings: Settings, make: Callable[[Path], Path], suffix: str
) -> None:
    path = make(tmp_path / f"a.{suffix}")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(errors.TruncatedMedia, match="audio is cut off: it should"):
        probe_audio(path, settings, "audio")


def test_a_flac_that_does_not_know_its_length_is_whole(tmp_path: Path, settings: Settings) -> None:
    path = make_flac(tmp_path / "a.flac")
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0  # the number of samples: 36 bits of the first metadata block
    data[22:26] = bytes(4)
    path.write_bytes(data)
    check_whole(path, settings)


@pytest.mark.parametrize(("suffix", "codec"), [("ts", "libx264"), ("flv", "flv1")])
@pytest.mark.parametrize("share", [0.7, 0.97])
def test_a_video_that_is_still_being_recorded_is_read_as_far_as_it_goes(
    tmp_path: Path, settings: Settings, suffix: str, codec: str, share: float
) -> None:
    options = {"flvflags": "no_duration_filesize"} if suffix == "flv" else {}
    path = make_video(tmp_path / f"v.{suffix}", 40, codec=codec, container_options=options)
    data = path.read_bytes()
    path.write_bytes(data[: round(len(data) * share)])
    assert 15 <= probe_video(path, settings, "video").num_frames < 40


@pytest.mark.parametrize("suffix", ["mkv", "webm"])
def test_a_live_matroska_is_read_as_far_as_it_goes(
    tmp_path: Path, settings: Settings, suffix: str
) -> None:
    codec = "libvpx" if suffix == "webm" else "libx264"
    path = make_video(tmp_path / f"v.{suffix}", 40, codec=codec, container_options={"live": "1"})
    assert probe_video(path, settings, "video").num_frames == 40
    data = path.read_bytes()
    path.write_bytes(data[: round(len(data) * 0.7)])
    assert 20 <= probe_video(path, settings, "video").num_frames < 40

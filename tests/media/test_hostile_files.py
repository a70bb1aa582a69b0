"""Files that were made or damaged so that a reader would crash, hang or fill the memory."""

from __future__ import annotations

import struct
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import pytest

from latentsync import errors
from latentsync.media.probe import probe_audio, probe_video
from latentsync.media.reader import VideoReader
from latentsync.media.sound import read_waveform
from latentsync.settings import Settings
from tests.media.makers import make_sound, make_video, numbered, tone
from tests.server.live import REPOSITORY


def test_a_matroska_header_of_a_million_gigabytes_is_refused(
    tmp_path: Path, settings: Settings
) -> None:
    path = tmp_path / "a.mkv"
    path.write_bytes(b"\x1a\x45\xdf\xa3\x01" + (2**50).to_bytes(7, "big") + bytes(100))
    with pytest.raises(errors.UnreadableMedia):
        probe_video(path, settings, "video")


def change_last_cluster(path: Path, time: int) -> Path:
    """Set the timestamp of the last cluster of a Matroska."""
    content = path.read_bytes()
    cluster = content.rindex(b"\x1f\x43\xb6\x75")
    # The cluster's size becomes unknown, and its timestamp one of 8 bytes.
    stamp = content.index(b"\xe7", cluster)
    after_stamp = stamp + 2 + (content[stamp + 1] & 0x7F)
    path.write_bytes(
        content[: cluster + 4]
        + b"\x01"
        + b"\xff" * 7
        + (b"\xe7\x88" + time.to_bytes(8, "big"))
        + content[after_stamp:]
    )
    return path


@pytest.mark.parametrize("time", [2**62, 2**63 - 1, 2**64 - 2])
def test_timestamps_beyond_every_clock_are_ignored(
    tmp_path: Path, settings: Settings, time: int
) -> None:
    path = make_video(tmp_path / "a.mkv", 40, gop=5, container_options={"live": "1"})
    change_last_cluster(path, time)
    info = probe_video(path, settings, "video")
    assert len(list(VideoReader(path, info).read(range(info.num_frames)))) == info.num_frames


def test_pictures_without_a_possible_timestamp_are_none(tmp_path: Path, settings: Settings) -> None:
    path = make_video(tmp_path / "a.mkv", 3, container_options={"live": "1"})
    with pytest.raises(errors.NoVideo, match="without a single frame"):
        probe_video(change_last_cluster(path, 2**62), settings, "video")


@pytest.mark.parametrize("mask", [0b101, 0b1_1000, 0x20001, 0x600])
def test_any_two_loudspeakers_are_heard(tmp_path: Path, settings: Settings, mask: int) -> None:
    path = make_sound(tmp_path / "a.wav", tone(0.5, 16_000, 2), layout="stereo")
    samples = path.read_bytes()[-32_000:]
    kind = struct.pack("<HHIIHH", 0xFFFE, 2, 16_000, 64_000, 4, 16)
    pcm = bytes.fromhex("0100000000001000800000aa00389b71")
    form = kind + struct.pack("<HHI", 22, 16, mask) + pcm
    body = b"WAVE" + struct.pack("<4sI", b"fmt ", len(form)) + form
    body += struct.pack("<4sI", b"data", len(samples)) + samples
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    info = probe_audio(path, settings, "audio")
    assert info.layout == "stereo"
    assert read_waveform(path, info).max() == pytest.approx(0.5, abs=0.05)


def write_jumps(path: Path, kind: str, count: int) -> Path:
    """Write groups of three packets, each group five seconds after the one before."""
    with av.open(str(path), "w", format="nut") as container:
        if kind == "sound":
            stream = container.add_stream("pcm_s16le", rate=8_000, layout="mono")
            content = bytes(320)
        else:
            stream = container.add_stream("mpeg4", rate=25)
            stream.width = stream.height = 64
            frame = av.VideoFrame.from_ndarray(numbered(0), format="rgb24")
            content = bytes([*stream.encode(frame), *stream.encode(None)][0])
        for number in range(3 * count):
            packet = av.Packet(content)
            packet.stream, packet.time_base = stream, Fraction(1, 1000)
            packet.pts = packet.dts = number * 20 + number // 3 * 5_000
            packet.duration, packet.is_keyframe = 20, True
            container.mux(packet)
    return path


@pytest.mark.parametrize("kind", ["sound", "pictures"])
def test_a_clock_that_jumps_all_the_time_is_refused(
    tmp_path: Path, settings: Settings, kind: str
) -> None:
    path = write_jumps(tmp_path / "a.nut", kind, 1_100)
    with pytest.raises(errors.UnreadableMedia, match="jump more than 1000 times"):
        (probe_audio if kind == "sound" else probe_video)(path, settings, "video")


_PROBE = """
import resource, sys
from pathlib import Path
from latentsync.errors import UnreadableMedia
from latentsync.media.probe import probe_video
from latentsync.settings import Settings

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    probe_video(Path(sys.argv[1]), Settings(), "video")
except UnreadableMedia:
    more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(more // (1024 if sys.platform == "darwin" else 1))
"""


def test_a_transparent_picture_of_sixteen_thousand_squared_is_not_allocated(
    tmp_path: Path,
) -> None:
    path = make_video(tmp_path / "a.webm", 5, codec="libvpx")
    with av.open(str(path)) as source, av.open(str(tmp_path / "bomb.webm"), "w") as bomb:
        stream = bomb.add_stream_from_template(source.streams.video[0], opaque=True)
        stream.metadata["alpha_mode"] = "1"
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                bomb.mux(packet)
    content = (tmp_path / "bomb.webm").read_bytes()
    size = content.index(b"\x9d\x01\x2a") + 3  # follows the start code of a keyframe of VP8
    patched = content[:size] + struct.pack("<HH", 16_383, 16_383) + content[size + 4 :]
    (tmp_path / "bomb.webm").write_bytes(patched)
    command = [sys.executable, "-c", _PROBE, str(tmp_path / "bomb.webm")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 200 * 1024, "KiB"

"""Files as people have them, over real HTTP: the result is right, and says what was handled."""

from __future__ import annotations

import base64
import struct
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import pytest
from av.container import OutputContainer
from PIL import Image

from latentsync.media.tone import PQ
from latentsync.schema.responses import PredictDetails
from tests.media.corpus import TONE_FROM_S, Clip, Pictures, Sound, write
from tests.media.makers import make_sound, make_video, numbered, read_number
from tests.media.test_clock import join
from tests.media.test_colour import make_hdr, make_transparent
from tests.media.test_pictures import save
from tests.media.test_streams import make_pictures, make_tracks
from tests.server.clips import as_base64, write_clip, write_speech
from tests.server.engines import SquareEngine
from tests.server.live import AUTH, files_in, serving_engine

Post = Callable[..., tuple[PredictDetails, Path]]


@pytest.fixture(scope="module")
def post(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Post]:
    """Posts a video and a recording that must succeed; returns the details and the saved result."""
    folder = tmp_path_factory.mktemp("server")
    with serving_engine(folder, SquareEngine()) as url:

        def posted(video: Path, audio: Path, **more: Any) -> tuple[PredictDetails, Path]:
            body = {"video_base64": as_base64(video), "audio_base64": as_base64(audio), **more}
            response = httpx.post(f"{url}/predict", json=body, headers=AUTH, timeout=60)
            assert response.status_code == 200, response.text[:300]
            path = tmp_path_factory.mktemp("result") / "result.mp4"
            path.write_bytes(base64.b64decode(response.json()["result"]["video_base64"]))
            assert files_in(folder / "work") == []
            return PredictDetails.model_validate(response.json()["result"]["details"]), path

        yield posted


def codes(details: PredictDetails) -> list[str]:
    return [warning.code for warning in details.warnings]


def frames_of(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def loudness_of(path: Path, num_frames: int) -> list[float]:
    """Return the loudest sample during each frame."""
    with av.open(str(path)) as container:
        rate = container.streams.audio[0].rate
        blocks = [frame.to_ndarray()[0] for frame in container.decode(audio=0)]
    samples = np.abs(np.concatenate(blocks))[: num_frames * rate // 25]
    return [float(part.max()) for part in np.array_split(samples, num_frames)]


def two_bursts(rate: int = 16_000) -> np.ndarray:
    """Return 2 s of sound, float32 (1, samples), loud from 0.4 to 0.8 s and from 1.4 to 1.6 s."""
    moments = np.arange(2 * rate) / rate
    is_loud = ((moments >= 0.4) & (moments < 0.8)) | ((moments >= 1.4) & (moments < 1.6))
    return (0.7 * np.sin(2 * np.pi * 300 * moments) * is_loud).astype(np.float32)[None]


@pytest.mark.parametrize("size", [0, 2_000_000_000, 0x7FFFF000, 0xFFFFFFFF])
def test_speech_written_to_a_pipe_is_heard_whole(tmp_path: Path, post: Post, size: int) -> None:
    speech = make_sound(tmp_path / "a.wav", two_bursts())
    data = bytearray(speech.read_bytes())
    data[4:8] = struct.pack("<I", min(size + 36, 0xFFFFFFFF))
    at = data.index(b"data") + 4
    data[at : at + 4] = struct.pack("<I", size)
    speech.write_bytes(data)
    details, path = post(write_clip(tmp_path / "v.mp4", seconds=2), speech)
    assert (details.frames, codes(details)) == (50, [])
    frames = frames_of(path)
    is_open = [number for number, frame in enumerate(frames) if frame[2:14, 2:14].mean() > 200]
    assert is_open == [*range(10, 20), *range(35, 40)]
    loudness = loudness_of(path, 50)
    assert min(loudness[number] for number in is_open) > 0.5
    assert max(loudness[number] for number in (*range(8), *range(22, 33), *range(43, 50))) < 0.05


def test_a_capture_whose_clock_jumps_goes_on_without_a_gap(tmp_path: Path, post: Post) -> None:
    capture = join(tmp_path / "v.ts", (10.0, 3610.0))
    details, path = post(capture, make_sound(tmp_path / "a.wav", two_bursts()))
    assert codes(details) == ["CLOCK_MENDED"]
    shown = [read_number(frame[20:]) for frame in frames_of(path)]
    assert shown[:18] == list(range(18))
    assert 39 in shown


def test_speech_taken_from_such_a_capture_is_as_long_as_its_parts(
    tmp_path: Path, post: Post
) -> None:
    capture = join(tmp_path / "v.ts", (10.0, 3610.0))
    details, _ = post(write_clip(tmp_path / "v.mp4", seconds=2), capture)
    assert abs(details.frames - 40) <= 1
    assert codes(details) == ["CLOCK_MENDED"]


def test_of_several_streams_the_marked_ones_are_used(tmp_path: Path, post: Post) -> None:
    pictures = make_pictures(tmp_path / "v.mkv", default=1)
    speech = make_tracks(tmp_path / "a.mp4", (None, 0.6, 0.1), default=1)
    details, path = post(pictures, speech)
    assert codes(details) == ["STREAM_CHOSEN", "STREAM_CHOSEN"]
    assert "video_base64" in details.warnings[0].message
    assert "audio_base64" in details.warnings[1].message
    assert frames_of(path)[0][40:].mean() > 200, "the white pictures are the marked ones"
    assert max(loudness_of(path, details.frames)) == pytest.approx(0.6, rel=0.2)


@pytest.mark.parametrize(
    ("shares", "written", "said"),
    [
        ((1.0, -1.0), "stereo", ["CHANNEL_CHOSEN"]),
        ((0.0,) * 36 + (1.0,) + (0.0,) * 23, "stereo", ["CHANNELS_MIXED", "CHANNEL_CHOSEN"]),
    ],
    ids=["exchanged wires", "one of sixty"],
)
def test_speech_that_a_mono_mix_loses_is_heard(
    tmp_path: Path, post: Post, shares: tuple[float, ...], written: str, said: list[str]
) -> None:
    samples = np.array(shares, np.float32)[:, None] * two_bursts()
    speech = tmp_path / "a.wav"
    with wave.open(str(speech), "wb") as file:
        file.setnchannels(len(shares))
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes((samples.T * 32767).astype("<i2").tobytes())
    details, path = post(write_clip(tmp_path / "v.mp4", seconds=2), speech)
    assert codes(details) == said
    frames = frames_of(path)
    is_open = [number for number, frame in enumerate(frames) if frame[2:14, 2:14].mean() > 200]
    assert is_open == [*range(10, 20), *range(35, 40)]
    with av.open(str(path)) as container:
        assert container.streams.audio[0].layout.name == written
    assert max(loudness_of(path, 50)) > 0.5


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: make_hdr(folder / "v.mkv", np.full((64, 96), 400, np.uint16), PQ), "TONE"),
        (lambda folder: make_transparent(folder / "v.webm", "libvpx-vp9", "yuva420p", 0), "ALPHA"),
    ],
    ids=["high dynamic range", "transparent"],
)
def test_unusual_colours_become_usual_ones(
    tmp_path: Path, post: Post, make: Callable[[Path], Path], said: str
) -> None:
    details, path = post(make(tmp_path), write_speech(tmp_path / "a.wav"))
    assert [code.split("_")[0] for code in codes(details)] == [said]
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert context.pix_fmt == "yuv420p"
        assert (context.color_trc, context.color_primaries) in ((1, 1), (2, 2))
        assert context.color_range == 1


def test_an_animated_webp_is_a_video(tmp_path: Path, post: Post) -> None:
    pictures = [Image.fromarray(numbered(number, 96, 64)) for number in range(10)]
    path = save(tmp_path / "v.webp", pictures, [40] * 10)
    details, result = post(path, write_speech(tmp_path / "a.wav"))
    assert (details.frames, details.warnings) == (10, [])
    assert [read_number(frame[20:]) for frame in frames_of(result)] == list(range(10))


H264_60 = Pictures("libx264", "preset=ultrafast bf=2", fps=60, num_frames=96)
H264 = Pictures("libx264", "preset=ultrafast bf=2", num_frames=40)


@pytest.mark.parametrize(
    "clip",
    [
        Clip("60 fps", "mp4", H264_60, Sound("aac")),
        Clip("AVI with B-frames", "avi", H264, Sound("pcm_s16le")),
        Clip("sound later", "mpegts", H264, Sound("aac"), sound_later_s=0.2),
        Clip("sound earlier", "matroska", H264, Sound("aac"), sound_later_s=-0.2, start_s=0.2),
    ],
    ids=lambda clip: clip.name,
)
def test_a_videos_own_sound_stays_in_step(tmp_path: Path, post: Post, clip: Clip) -> None:
    """Speech replaces the end; until there the video's own sound is heard."""
    speech = write_speech(tmp_path / "a.wav")
    details, path = post(write(clip, tmp_path), speech, segments=[{"start_s": 1.2}])
    assert abs(details.frames - 40) <= 1
    with av.open(str(path)) as container:
        rate = container.streams.audio[0].rate
        heard = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    level = np.abs(heard[: round(1.1 * rate)])
    heard_s = int(np.argmax(level > level.max() / 2)) / rate
    assert heard_s == pytest.approx(TONE_FROM_S + clip.sound_later_s, abs=0.01)


def test_what_is_unusual_about_a_videos_own_sound_is_said(tmp_path: Path, post: Post) -> None:
    def second_sound(container: OutputContainer) -> list[av.Packet]:
        stream = container.add_stream("aac", rate=48_000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 48_000
        container.start_encoding()
        return [*stream.encode(frame), *stream.encode(None)]

    clip = Clip("two tracks", "mp4", H264, Sound("aac"), extra=second_sound)
    speech = write_speech(tmp_path / "a.wav")
    video = write(clip, tmp_path)
    assert codes(post(video, speech)[0]) == []
    assert codes(post(video, speech, segments=[{"start_s": 1.2}])[0]) == ["STREAM_CHOSEN"]


def test_fields_become_frames(tmp_path: Path, post: Post) -> None:
    video = make_video(tmp_path / "v.ts", 10, size=(96, 64), options={"x264-params": "tff=1"})
    details, path = post(video, write_speech(tmp_path / "a.wav"))
    assert codes(details) == ["DEINTERLACED"]
    assert [read_number(frame[20:]) for frame in frames_of(path)] == list(range(10))


def test_frames_that_change_their_size_keep_their_shape(tmp_path: Path, post: Post) -> None:
    parts = [
        make_video(tmp_path / f"{number}.ts", 5, size=size)
        for number, size in enumerate([(96, 64), (96, 128)])
    ]
    video = tmp_path / "v.ts"
    video.write_bytes(b"".join(part.read_bytes() for part in parts))
    details, path = post(video, write_speech(tmp_path / "a.wav"))
    assert "FRAME_SIZE_CHANGED" in codes(details)
    frames = frames_of(path)
    assert [read_number(frame[20:]) for frame in frames[:5]] == list(range(5))
    assert [read_number(frame[20:, 24:72]) for frame in frames[6:]] == list(range(1, 5))


def test_an_ordinary_file_needs_no_warning(tmp_path: Path, post: Post) -> None:
    clip = make_video(tmp_path / "v.mp4", 20)
    assert post(clip, write_speech(tmp_path / "a.wav"))[0].warnings == []

from __future__ import annotations

import struct
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from latentsync import errors
from latentsync.media.colour import Orientation
from latentsync.media.probe import AudioInfo, VideoInfo, probe_audio, probe_video
from latentsync.settings import Settings
from tests.media.makers import cut, make_sound, make_video, tone


def video(path: Path, settings: Settings) -> VideoInfo:
    return probe_video(path, settings, "video_url")


def audio(path: Path, settings: Settings) -> AudioInfo:
    return probe_audio(path, settings, "audio_url")


def test_a_video_is_described(tmp_path: Path, settings: Settings) -> None:
    path = make_video(
        tmp_path / "v.mp4",
        30,
        fps=30,
        size=(96, 64),
        display=(-90,),
        colorspace=1,
        color_primaries=1,
        color_trc=1,
        color_range=1,
    )
    info = video(path, settings)
    assert (info.width, info.height, info.codec) == (64, 96, "h264")
    assert info.orientation == Orientation(transpose=True, flip_x=True)
    assert info.timeline.fps == 30
    assert (info.duration_s, info.num_frames) == (1.0, 25)
    colour = info.colour
    assert (colour.matrix, colour.primaries, colour.transfer) == (1, 1, 1)
    assert not colour.full_range


@pytest.mark.parametrize(
    ("suffix", "codec", "layout", "rate"),
    [
        ("wav", "pcm_s16le", "mono", 16_000),
        ("wav", "pcm_u8", "mono", 8_000),
        ("wav", "pcm_s24le", "5.1", 48_000),
        ("mp3", "libmp3lame", "stereo", 44_100),
        ("m4a", "aac", "stereo", 48_000),
        ("ogg", "libopus", "mono", 48_000),
        ("flac", "flac", "stereo", 96_000),
    ],
)
def test_a_recording_is_described(
    tmp_path: Path, settings: Settings, suffix: str, codec: str, layout: str, rate: int
) -> None:
    channels = av.AudioLayout(layout).nb_channels
    path = make_sound(
        tmp_path / f"a.{suffix}", tone(1.5, rate, channels), rate, codec=codec, layout=layout
    )
    info = audio(path, settings)
    assert (info.sample_rate, info.layout) == (rate, layout)
    assert info.duration_s == pytest.approx(1.5, abs=0.03)


def test_an_empty_file_is_refused(tmp_path: Path, settings: Settings) -> None:
    path = tmp_path / "v.mp4"
    path.touch()
    with pytest.raises(errors.EmptyMedia, match="video_url"):
        video(path, settings)


@pytest.mark.parametrize("content", [b"hello, this is text\n" * 50, b"\0" * 5000, b"x"])
def test_a_file_that_is_no_media_is_refused_whatever_its_name(
    tmp_path: Path, settings: Settings, content: bytes
) -> None:
    path = tmp_path / "v.mp4"
    path.write_bytes(content)
    for probe in (video, audio):
        with pytest.raises(errors.UnreadableMedia) as caught:
            probe(path, settings)
        assert str(tmp_path) not in caught.value.message


@pytest.mark.parametrize("faststart", [True, False])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_cut_mp4_is_refused_as_cut(
    tmp_path: Path, settings: Settings, faststart: bool, share: float
) -> None:
    options = {"movflags": "+faststart"} if faststart else {}
    path = cut(make_video(tmp_path / "v.mp4", 50, container_options=options), share)
    with pytest.raises(errors.TruncatedMedia, match="video_url is cut off"):
        video(path, settings)


@pytest.mark.parametrize("suffix", ["mkv", "avi", "webm"])
def test_other_cut_videos_are_refused_as_cut(
    tmp_path: Path, settings: Settings, suffix: str
) -> None:
    codec = "libvpx" if suffix == "webm" else "libx264"
    path = cut(make_video(tmp_path / f"v.{suffix}", 30, codec=codec), 0.6)
    with pytest.raises(errors.TruncatedMedia):
        video(path, settings)


def test_a_cut_recording_is_refused_as_cut(tmp_path: Path, settings: Settings) -> None:
    path = cut(make_sound(tmp_path / "a.wav", tone(2, 16_000)), 0.5)
    with pytest.raises(errors.TruncatedMedia, match="bytes but has"):
        audio(path, settings)


def test_a_recording_written_to_a_pipe_has_no_length_and_is_fine(
    tmp_path: Path, settings: Settings
) -> None:
    path = make_sound(tmp_path / "a.wav", tone(1, 16_000))
    data = bytearray(path.read_bytes())
    data[4:8] = struct.pack("<I", 0xFFFFFFFF)
    data[data.index(b"data") + 4 :][:4] = struct.pack("<I", 0xFFFFFFFF)
    path.write_bytes(data)
    assert audio(path, settings).duration_s == pytest.approx(1, abs=0.001)


@pytest.mark.parametrize("sample_rate", [8, 900, 3_000_000, 0x7FFFFFFF])
def test_an_absurd_sample_rate_is_refused(
    tmp_path: Path, settings: Settings, sample_rate: int
) -> None:
    path = make_sound(tmp_path / "a.wav", tone(0.5, 16_000))
    data = bytearray(path.read_bytes())
    data[24:28] = struct.pack("<I", sample_rate)
    path.write_bytes(data)
    patient = settings.model_copy(update={"min_audio_s": 1e-9, "max_duration_s": 1e6})
    with pytest.raises(errors.UnreadableMedia, match=f"claims {sample_rate} samples"):
        audio(path, patient)


def test_rubbish_behind_the_last_box_is_ignored(tmp_path: Path, settings: Settings) -> None:
    path = make_video(tmp_path / "v.mp4", 10)
    path.write_bytes(path.read_bytes() + b"\xff" * 100)
    assert video(path, settings).num_frames == 10


def boxes(count: int) -> bytes:
    return struct.pack(">I4s", 8, b"free") * count


def test_a_file_of_a_million_empty_boxes_is_refused_at_once(
    tmp_path: Path, settings: Settings
) -> None:
    whole = make_video(tmp_path / "v.mp4", 10).read_bytes()
    path = tmp_path / "w.mp4"
    path.write_bytes(boxes(1_000_000) + whole)
    started = time.process_time()
    with pytest.raises(errors.UnreadableMedia, match="100000 boxes"):
        video(path, settings)
    assert time.process_time() - started < 0.5


def test_some_empty_boxes_do_no_harm(tmp_path: Path, settings: Settings) -> None:
    path = make_video(tmp_path / "v.mp4", 10)
    path.write_bytes(path.read_bytes() + boxes(5_000))
    assert video(path, settings).num_frames == 10


def test_sound_alone_is_no_video(tmp_path: Path, settings: Settings) -> None:
    path = make_sound(tmp_path / "a.m4a", tone(1, 44_100), 44_100, codec="aac")
    with pytest.raises(errors.NoVideo, match="video_url holds no video"):
        video(path, settings)


def test_cover_art_is_no_video(tmp_path: Path, settings: Settings) -> None:
    path = tmp_path / "a.mp3"
    picture = make_picture(tmp_path / "cover.png").read_bytes()
    with av.open(str(path), "w") as container:
        sound = container.add_stream("libmp3lame", rate=44_100)
        art = container.add_mux_stream("png", width=64, height=64)
        art.disposition = av.stream.Disposition.attached_pic
        frame = av.AudioFrame.from_ndarray(tone(1, 44_100, 2), format="fltp", layout="stereo")
        frame.sample_rate, frame.pts = 44_100, 0
        packets = [*sound.encode(frame), *sound.encode(None)]
        cover = av.Packet(picture)
        cover.stream, cover.pts, cover.dts = art, 0, 0
        container.mux([cover, *packets])
    with av.open(str(path)) as container:
        assert container.streams.video
    with pytest.raises(errors.NoVideo):
        video(path, settings)
    assert audio(path, settings).codec.startswith("mp3")


def make_picture(path: Path, codec: str = "png") -> Path:
    stream = av.CodecContext.create(codec, "w")
    stream.width = stream.height = 64
    stream.pix_fmt = "rgb24" if codec == "png" else "yuvj420p"
    stream.time_base = Fraction(1, 25)
    frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 99, np.uint8))
    packets = stream.encode(frame.reformat(format=stream.pix_fmt))
    path.write_bytes(b"".join(bytes(packet) for packet in [*packets, *stream.encode(None)]))
    return path


@pytest.mark.parametrize("codec", ["png", "mjpeg"])
def test_a_still_picture_is_no_video(tmp_path: Path, settings: Settings, codec: str) -> None:
    with pytest.raises(errors.NoVideo, match="is a picture"):
        video(make_picture(tmp_path / "v.mp4", codec), settings)


def test_a_video_of_one_frame_is_a_video(tmp_path: Path, settings: Settings) -> None:
    assert video(make_video(tmp_path / "v.mp4", 1), settings).num_frames == 1


def test_a_video_stream_without_frames_is_no_video(tmp_path: Path, settings: Settings) -> None:
    path = tmp_path / "v.mkv"
    with av.open(str(path), "w") as container:
        pictures = container.add_stream("libx264", rate=25)
        pictures.width = pictures.height = 64
        sound = container.add_stream("aac", rate=16_000)
        sound.codec_context.layout = "mono"
        frame = av.AudioFrame.from_ndarray(tone(1, 16_000), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16_000, 0
        container.mux([*sound.encode(frame), *sound.encode(None)])
    with pytest.raises(errors.NoVideo, match="without a single frame"):
        video(path, settings)


def test_pictures_alone_are_no_recording(tmp_path: Path, settings: Settings) -> None:
    with pytest.raises(errors.NoAudio, match="audio_url holds no sound"):
        audio(make_video(tmp_path / "v.mp4", 5), settings)


@pytest.mark.parametrize(
    ("suffix", "codec"), [("wav", "pcm_s16le"), ("mp3", "libmp3lame"), ("m4a", "aac")]
)
def test_50_ms_of_sound_are_too_short(
    tmp_path: Path, settings: Settings, suffix: str, codec: str
) -> None:
    path = make_sound(tmp_path / f"a.{suffix}", tone(0.05, 16_000), codec=codec)
    with pytest.raises(errors.AudioTooShort, match="at least 100 ms"):
        audio(path, settings)


def test_eleven_minutes_are_too_long(tmp_path: Path, settings: Settings) -> None:
    path = make_video(tmp_path / "v.mp4", 12, fps=Fraction(1, 60))
    with pytest.raises(errors.MediaTooLong, match="longer than 600 s"):
        video(path, settings)
    quiet = make_sound(
        tmp_path / "a.flac", np.zeros((1, 661 * 8000), np.float32), 8000, codec="flac"
    )
    with pytest.raises(errors.MediaTooLong, match="audio_url"):
        audio(quiet, settings)


def test_a_wrong_length_in_the_header_is_not_believed(tmp_path: Path, settings: Settings) -> None:
    path = make_video(tmp_path / "v.mp4", 10)
    data = bytearray(path.read_bytes())
    at = data.index(b"mvhd") + 4 + 4 + 8 + 4
    data[at : at + 4] = struct.pack(">I", 0x7FFFFFFF)
    path.write_bytes(data)
    assert video(path, settings).num_frames == 10


SMALLEST = {"preset": "ultrafast", "tune": "zerolatency", "threads": "1"}  # memory of an encoder


def test_a_picture_of_10000_by_10000_is_too_large(tmp_path: Path, settings: Settings) -> None:
    path = tmp_path / "v.ts"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options=SMALLEST)
        stream.width, stream.height, stream.pix_fmt = 10_000, 10_000, "gray"
        container.mux(stream.encode(av.VideoFrame(10_000, 10_000, "gray")))
        container.mux(stream.encode(None))
    with pytest.raises(errors.PictureTooLarge, match="10000x10000"):
        video(path, settings)


def test_a_large_picture_behind_a_modest_header_is_never_decoded(
    tmp_path: Path, settings: Settings
) -> None:
    strict = settings.model_copy(update={"max_pixels": 100 * 100})
    path = make_video(tmp_path / "v.mkv", 2, size=(640, 480), codec="mjpeg", pix_fmt="yuvj420p")
    width_and_height = b"\xb0\x82\x02\x80\xba\x82\x01\xe0"
    assert width_and_height in path.read_bytes()
    modest = b"\xb0\x82\x00\x40\xba\x82\x00\x40"
    path.write_bytes(path.read_bytes().replace(width_and_height, modest))
    with pytest.raises(errors.PictureTooLarge):
        video(path, strict)


def test_a_tiny_picture_is_too_small(tmp_path: Path, settings: Settings) -> None:
    with pytest.raises(errors.PictureTooSmall, match="64 or more"):
        video(make_video(tmp_path / "v.mp4", 2, size=(64, 32)), settings)


def test_too_many_frames_per_second_are_refused(tmp_path: Path, settings: Settings) -> None:
    path = make_video(tmp_path / "v.mp4", 100, fps=1000)
    with pytest.raises(errors.TooManyFrames, match="allowed: 240"):
        video(path, settings)
    assert video(make_video(tmp_path / "w.mp4", 48, fps=240), settings).num_frames == 5


PLAYLISTS = {
    "m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n",
    "ffconcat": "ffconcat version 1.0\nfile '{target}'\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
    "m=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    "mpd": '<?xml version="1.0"?><MPD type="static" mediaPresentationDuration="PT1S"><Period>'
    '<AdaptationSet mimeType="video/mp4"><Representation id="0"><BaseURL>{target}</BaseURL>'
    "</Representation></AdaptationSet></Period></MPD>",
}


@pytest.mark.parametrize("kind", PLAYLISTS)
@pytest.mark.parametrize("suffix", ["as itself", "mp4"])
def test_playlists_that_point_elsewhere_are_refused(
    tmp_path: Path, settings: Settings, kind: str, suffix: str
) -> None:
    target = make_video(tmp_path / "secret.mp4", 10)
    path = tmp_path / f"v.{kind if suffix == 'as itself' else suffix}"
    path.write_text(PLAYLISTS[kind].format(target=target))
    with pytest.raises(errors.UnreadableMedia):
        video(path, settings)


def test_a_numbered_picture_name_opens_no_neighbours(tmp_path: Path, settings: Settings) -> None:
    for number in range(3):
        make_picture(tmp_path / f"v{number}.png")
    make_picture(tmp_path / "v%d.png")
    with pytest.raises((errors.NoVideo, errors.UnreadableMedia)):
        video(tmp_path / "v%d.png", settings)


def test_too_many_streams_are_refused(tmp_path: Path, settings: Settings) -> None:
    path = tmp_path / "v.mkv"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("pcm_s16le", rate=8000, layout="mono") for _ in range(33)]
        for stream in streams:
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
            frame.sample_rate, frame.pts = 8000, 0
            container.mux(stream.encode(frame))
    with pytest.raises(errors.UnreadableMedia, match="33 streams"):
        audio(path, settings)


@pytest.mark.parametrize("name", ["a b.mp4", 'it\'s "q".mp4', "视频 文件.mp4", "file:x%20.mp4"])
def test_unusual_file_names_are_no_trouble(tmp_path: Path, settings: Settings, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(make_video(tmp_path / "v.mp4", 3).read_bytes())
    assert video(path, settings).num_frames == 3

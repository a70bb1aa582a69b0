"""Files whose timestamps jump: their parts are joined, with picture and sound in step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from latentsync.media.clock import Clock, Stretch, Stretches, close_jumps
from latentsync.media.probe import AudioInfo, VideoInfo, probe_audio, probe_video
from latentsync.media.reader import VideoReader
from latentsync.media.sound import read_waveform
from latentsync.settings import Settings
from tests.media.makers import make_video, numbered, read_number

RATE = 48_000
CLICKS = (5, 15)  # frames of each part at whose start the sound clicks


def write_part(
    path: Path,
    *,
    first: int,
    num_frames: int,
    start_s: float,
    sound_start_s: float = 0.0,
    silent_frames: int = 0,
) -> bytes:
    """Return a transport stream of numbered frames with a click at some of them."""
    with av.open(str(path), "w", format="mpegts", options={"muxdelay": "0"}) as container:
        video = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        video.width = video.height = 64
        video.codec_context.gop_size = 10
        sound = container.add_stream("mp2", rate=RATE, layout="mono")
        samples = np.zeros((1, num_frames * RATE // 25), np.int16)
        for click in CLICKS:
            samples[:, click * RATE // 25 :][:, :300] = 20_000
        for number in range(num_frames):
            frame = av.VideoFrame.from_ndarray(numbered(first + number), format="rgb24")
            frame.pts = round(start_s * 25) + number
            container.mux(video.encode(frame))
            low, high = number * RATE // 25, (number + 1) * RATE // 25
            block = av.AudioFrame.from_ndarray(samples[:, low:high], format="s16", layout="mono")
            block.sample_rate = RATE
            block.pts = round((start_s + sound_start_s) * RATE) + low
            if number < num_frames - silent_frames:
                container.mux(sound.encode(block))
        container.mux([*video.encode(None), *sound.encode(None)])
    return path.read_bytes()


def join(path: Path, starts_s: Sequence[float], num_frames: int = 20, **options: Any) -> Path:
    """Write transport streams one after the other; frames are numbered on from part to part."""
    parts = [
        write_part(
            path.with_suffix(".part"),
            first=number * num_frames,
            num_frames=num_frames,
            start_s=start_s,
            **options,
        )
        for number, start_s in enumerate(starts_s)
    ]
    path.write_bytes(b"".join(parts))
    return path


def probe(path: Path, settings: Settings) -> tuple[VideoInfo, AudioInfo]:
    return probe_video(path, settings, "video"), probe_audio(path, settings, "audio")


def numbers(path: Path, info: VideoInfo) -> list[int]:
    reader = VideoReader(path, info)
    return [read_number(frame) for frame in reader.read(range(reader.num_frames))]


def clicks_s(path: Path, video: VideoInfo, sound: AudioInfo) -> list[float]:
    """Return when the sound clicks, in seconds after the first picture."""
    loud = np.flatnonzero(np.abs(read_waveform(path, sound)) > 0.2)
    first = loud[np.diff(loud, prepend=-16_000) > 1_600]
    return (first / 16_000 + sound.start_s - video.start_s).tolist()


STARTS_S = {
    "ahead": (10.0, 3610.0),
    "anew": (10.0, 10.0),
    "back": (5000.0, 20.0),
    "a pause": (10.0, 15.0),
    "three parts": (10.0, 500.0, 2.0),
}


@pytest.mark.parametrize("starts_s", STARTS_S.values(), ids=list(STARTS_S))
@pytest.mark.parametrize("sound_start_s", [0.0, 0.08, -0.08])
def test_parts_of_a_transport_stream_are_joined_in_step(
    tmp_path: Path, settings: Settings, starts_s: Sequence[float], sound_start_s: float
) -> None:
    path = join(tmp_path / "v.ts", starts_s, sound_start_s=sound_start_s)
    video, sound = probe(path, settings)
    num_frames = 20 * len(starts_s)
    assert video.duration_s == pytest.approx(num_frames / 25, abs=0.12 * len(starts_s))
    assert [one.code for one in video.warnings] == ["CLOCK_MENDED"]
    assert video.clock.sections
    for own, other in zip(video.clock.sections, sound.clock.sections, strict=True):
        assert own.shift == other.shift, "both have the same time base"
    shown = numbers(path, video)
    assert sorted(set(shown)) == list(range(num_frames))
    assert shown == sorted(shown)
    timeline = video.timeline
    times_s = timeline.slot_pts * float(timeline.time_base) - timeline.start_s
    clicked = [20 * part + click for part in range(len(starts_s)) for click in CLICKS]
    at = [times_s[shown.index(number)] for number in clicked]
    heard = [click - sound_start_s for click in clicks_s(path, video, sound)]
    assert heard == pytest.approx(at, abs=0.01)


def test_a_part_whose_sound_ends_early_leaves_a_gap(tmp_path: Path, settings: Settings) -> None:
    video, sound = probe(join(tmp_path / "v.ts", (10.0, 500.0), silent_frames=1), settings)
    heard = clicks_s(tmp_path / "v.ts", video, sound)
    assert np.diff(heard) == pytest.approx([0.4, 0.4, 0.4], abs=0.02)


def test_frames_of_joined_parts_are_read_backwards_and_at_random(
    tmp_path: Path, settings: Settings
) -> None:
    path = join(tmp_path / "v.ts", (10.0, 3610.0, 10.0))
    info = probe_video(path, settings, "video")
    forwards = numbers(path, info)
    order = [*range(len(forwards) - 1, -1, -1), 45, 2, 30, 58, 0, 21]
    read = [read_number(frame) for frame in VideoReader(path, info).read(order)]
    assert read == [forwards[index] for index in order]


@pytest.mark.parametrize("pause_ms", [2_000, 5_000, 10**9])
def test_a_pause_of_a_recorder_without_sound_is_cut(
    tmp_path: Path, settings: Settings, pause_ms: int
) -> None:
    stamps = [number * 40 + (pause_ms if number >= 17 else 0) for number in range(30)]
    path = make_video(tmp_path / "v.mkv", stamps_ms=stamps)
    info = probe_video(path, settings, "video")
    assert numbers(path, info) == list(range(30))
    backwards = VideoReader(path, info).read(range(29, -1, -1))
    assert [read_number(frame) for frame in backwards] == list(range(29, -1, -1))


def test_frames_decoded_after_a_jump_but_shown_before_it_stay_before_it(
    tmp_path: Path, settings: Settings
) -> None:
    stamps = [number * 40 + (60_000 if number >= 23 else 0) for number in range(50)]
    path = make_video(
        tmp_path / "v.mkv", stamps_ms=stamps, gop=40, options={"bf": "3", "preset": "medium"}
    )
    assert numbers(path, probe_video(path, settings, "video")) == list(range(50))


def test_a_gap_of_up_to_a_second_is_held(tmp_path: Path, settings: Settings) -> None:
    path = make_video(tmp_path / "v.mkv", stamps_ms=[0, 40, 80, 1080, 1120])
    info = probe_video(path, settings, "video")
    assert not info.warnings
    assert numbers(path, info) == [0, 1] + [2] * 25 + [3, 4]


def test_a_slide_show_is_not_taken_for_jumps(tmp_path: Path, settings: Settings) -> None:
    path = make_video(tmp_path / "v.mkv", stamps_ms=range(0, 12_000, 3_000))
    info = probe_video(path, settings, "video")
    assert info.duration_s > 9
    assert not info.warnings


def test_a_screen_recording_keeps_its_still_moments(tmp_path: Path, settings: Settings) -> None:
    stamps = [0, 40, 80, 400, 440, 900, 940, 980, 1500, 5500, 5540, 5580]
    info = probe_video(make_video(tmp_path / "v.mkv", stamps_ms=stamps), settings, "video")
    assert info.duration_s == pytest.approx(5.62)
    assert not info.warnings


def stretches(*spans_s: tuple[float, float], is_even: bool = True) -> Stretches:
    """Return stretches of a stream in milliseconds; each has a packet every 40 ms."""
    found, number = [], 0
    for start_s, end_s in spans_s:
        start, end = round(start_s * 1000), round(end_s * 1000)
        found.append(Stretch(number, start, end - 40, end))
        number += (end - start) // 40
    return Stretches(0.001, found, is_even)


def shifts(clock: Clock) -> list[int]:
    return [section.shift for section in clock.sections]


def test_a_gap_of_the_pictures_is_kept_while_the_sound_continues() -> None:
    video, sound = close_jumps(stretches((0, 2), (7, 9)), stretches((0, 9)))
    assert (shifts(video), shifts(sound)) == ([], [])


def test_a_gap_of_the_sound_is_kept_while_the_pictures_continue() -> None:
    video, sound = close_jumps(stretches((0, 9)), stretches((0, 2), (7, 9)))
    assert (shifts(video), shifts(sound)) == ([], [])


def test_pictures_and_sound_move_together_by_what_closes_the_gap_of_the_longer() -> None:
    video, sound = close_jumps(stretches((0, 2), (100, 102)), stretches((0, 2.3), (99.9, 102)))
    assert shifts(video) == shifts(sound) == [0, round((2.3 - 99.9) * 1000)]


def test_uneven_pictures_are_moved_if_the_sound_jumps_with_them() -> None:
    video, sound = close_jumps(stretches((0, 2), (8, 9), is_even=False), stretches((0, 2), (8, 9)))
    assert shifts(video) == shifts(sound) == [0, -6000]
    video, _ = close_jumps(stretches((0, 2), (8, 9), is_even=False), stretches())
    assert shifts(video) == []


def test_a_jump_of_one_stream_alone_moves_that_stream() -> None:
    video, sound = close_jumps(stretches((0, 2), (50, 51)), stretches((0, 2)))
    assert (shifts(video), shifts(sound)) == ([0, -48_000], [])

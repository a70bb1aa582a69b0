"""Two people, each with a recording of their own: a real server, a real worker, a real engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from latentsync import Client, Segment
from latentsync.errors import ServerError
from latentsync.formats import SAMPLE_RATE, VIDEO_FPS, Frame
from tests.demo_media import demo_frames, demo_speech
from tests.media.makers import make_sound, make_video
from tests.ports import free_port
from tests.server.live import KEY, answers, process, wait_until

pytestmark = pytest.mark.processes

SIDE = 256  # of the picture of each person
LEFT, RIGHT = np.s_[150:230, 70:180], np.s_[150:230, SIDE + 70 : SIDE + 190]  # mouths and chins
LEFT_FACE, RIGHT_FACE = ({"frame": 0, "point": [x, 140]} for x in (124, SIDE + 131))


def both(number: int, *_size: int) -> Frame:
    """Show the person of the demo twice, the second time as in a mirror and at another moment."""
    frames = demo_frames()
    left, right = frames[number], frames[number + 40][:, ::-1]
    return np.concatenate([left[::2, ::2], right[::2, ::2]], axis=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two.mp4 of two seconds, ann.wav and ben.wav of 0.8 s."""
    folder = tmp_path_factory.mktemp("media")
    make_video(folder / "two.mp4", 50, size=(2 * SIDE, SIDE), paint=both)
    for name, start_s in (("ann", 0.4), ("ben", 3.0)):
        start = round(start_s * SAMPLE_RATE)
        speech = demo_speech()[start : start + round(0.8 * SAMPLE_RATE)]
        assert np.abs(speech).max() > 0.1
        make_sound(folder / f"{name}.wav", speech[None])
    return folder


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A caller of ``latentsync serve`` with the embedded engine."""
    own, port = tmp_path_factory.mktemp("server"), free_port()
    environment = {
        "LATENTSYNC_DATA_DIR": str(own / "data"),
        "LATENTSYNC_WORK_DIR": str(own / "work"),
        "LATENTSYNC_ENGINE": "draft",
        "LATENTSYNC_API_KEY": KEY,
        "LATENTSYNC_MIN_FREE_BYTES": "0",
    }
    url = f"http://127.0.0.1:{port}"
    with process("-m", "latentsync", "serve", "--port", str(port), **environment):
        wait_until(lambda: answers(url), timeout_s=60)
        wait_until(lambda: httpx.get(f"{url}/ready").status_code == 200, timeout_s=60)
        with Client(url, KEY) as client:
            yield client


def pictures_of(path: Path) -> list[NDArray[np.int16]]:
    with av.open(path) as container:
        frames = container.decode(video=0)
        return [frame.to_ndarray(format="rgb24").astype(np.int16) for frame in frames]


def sound_of(path: Path) -> NDArray[np.float32]:
    with av.open(path) as container:
        blocks = [frame.to_ndarray() for frame in container.decode(audio=0)]
        assert container.streams.audio[0].rate == SAMPLE_RATE
    return np.concatenate(blocks, axis=1)[0]


def test_each_says_what_is_theirs_when_it_is_theirs(client: Client, folder: Path) -> None:
    segments = [
        Segment(folder / "ann.wav", start_s=0.2, speaker=LEFT_FACE),
        Segment((folder / "ben.wav").read_bytes(), start_s=1.2, end_s=1.8, speaker=RIGHT_FACE),
    ]
    job = client.submit(folder / "two.mp4", segments=segments)
    done = client.wait(job).raise_for_status()
    assert done.details is not None
    assert done.details.engine == "draft"
    spoken = [(one.start_s, one.end_s) for one in done.details.segments]
    assert spoken == [(0.2, 1.0), (1.2, 1.8)]
    result = client.download(job, folder / "result.mp4")

    before, after = pictures_of(folder / "two.mp4"), pictures_of(result)
    assert len(after) == len(before) == done.details.frames == 50
    changes = [np.abs(new - old) for new, old in zip(after, before, strict=True)]
    for mouth, (start_s, end_s) in zip((LEFT, RIGHT), spoken, strict=True):
        start, end = round(start_s * VIDEO_FPS), round(end_s * VIDEO_FPS)
        most = [float(change[mouth].max()) for change in changes]
        assert max(most[start:end]) > 100  # levels: lips moved
        assert max(most[:start] + most[end:]) < 60  # what a second encode does

    sound = sound_of(result)

    def loudest(start_s: float, end_s: float) -> float:
        return float(np.abs(sound[round(start_s * SAMPLE_RATE) : round(end_s * SAMPLE_RATE)]).max())

    assert min(loudest(0.2, 1.0), loudest(1.2, 1.8)) > 0.1
    assert max(loudest(0.0, 0.1), loudest(1.08, 1.12), loudest(1.9, 2.0)) < 0.01


def test_one_person_cannot_say_two_things_at_once(client: Client, folder: Path) -> None:
    segments = [
        Segment(folder / "ann.wav", speaker=LEFT_FACE),
        Segment(folder / "ben.wav", start_s=0.4, speaker=LEFT_FACE),
    ]
    failed = client.wait(client.submit(folder / "two.mp4", segments=segments))
    with pytest.raises(ServerError, match="same person") as refused:
        failed.raise_for_status()
    assert refused.value.field == "segments.1.speaker"

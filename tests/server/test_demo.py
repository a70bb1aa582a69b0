"""The demo, and the other real faces, with the engine that a fresh installation has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from latentsync import Client
from latentsync.errors import ServerError
from latentsync.pipelines.registry import PipelineCache
from latentsync.schema.fields import SpeakerPoint
from latentsync.server.app import build_app
from tests.face.pictures import astronaut, blank, paste, stranger
from tests.media.makers import make_video
from tests.server.clips import write_clip
from tests.server.live import KEY, REPOSITORY, serving, settings_for

pytestmark = pytest.mark.processes

ASSETS = REPOSITORY / "assets"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    settings = settings_for(tmp_path_factory.mktemp("server"))
    app = build_app(settings, PipelineCache(settings))
    with serving(app) as url, Client(url, KEY) as client:
        yield client


def test_the_demo_runs_end_to_end(client: Client, tmp_path: Path) -> None:
    prediction = client.predict(ASSETS / "demo_video.mp4", ASSETS / "demo_audio.wav")
    details = prediction.details
    assert details.engine == "draft"
    assert (details.width, details.height, details.fps) == (512, 512, 25.0)
    assert details.faces_found == 1
    assert details.frames_without_face == 0
    path = prediction.save(tmp_path / "out" / "demo.mp4")
    with av.open(path) as container:
        assert sum(1 for _ in container.decode(video=0)) == details.frames
    with av.open(path) as result, av.open(ASSETS / "demo_audio.wav") as speech:
        sound = result.streams.audio[0]
        assert sound.rate == speech.streams.audio[0].rate
        assert float(sound.duration * sound.time_base) >= float(speech.duration / av.time_base)


def two_people(path: Path) -> Path:
    picture = paste(paste(blank(), astronaut(), 120, 128, 200), stranger(), 340, 128, 150)
    return make_video(path, 12, size=(448, 256), paint=lambda *_: picture)


def frames_of(path: Path) -> list[np.ndarray]:
    with av.open(path) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


LEFT, RIGHT = np.s_[:, :210], np.s_[:, 250:]


@pytest.mark.parametrize(("x", "speaking", "silent"), [(120, LEFT, RIGHT), (340, RIGHT, LEFT)])
def test_of_two_people_only_the_chosen_one_speaks(
    client: Client,
    tmp_path: Path,
    x: int,
    speaking: tuple[slice, slice],
    silent: tuple[slice, slice],
) -> None:
    video = two_people(tmp_path / "two.mp4")
    speaker = SpeakerPoint(frame=0, point=(x, 128))
    speech = ASSETS / "demo_audio.wav"
    prediction = client.predict(video, speech, speaker=speaker, sync_mode="cut_off")
    assert prediction.details.faces_found == 2
    before, after = frames_of(video), frames_of(prediction.save(tmp_path / "result.mp4"))
    changes = [np.abs(a.astype(int) - b) for a, b in zip(after, before, strict=True)]
    assert max(change[speaking].max() for change in changes) > 100  # levels: lips moved
    assert max(change[silent].max() for change in changes) < 40  # what a second encode does


def test_a_video_without_a_face_is_refused(client: Client, tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="10 frames") as refused:
        client.predict(write_clip(tmp_path / "bar.mp4"), ASSETS / "demo_audio.wav")
    assert (refused.value.server_status, refused.value.server_code) == (422, "NO_FACE")


def test_a_point_outside_every_face_is_refused(client: Client, tmp_path: Path) -> None:
    speaker = SpeakerPoint(frame=0, point=(230, 5))
    with pytest.raises(ServerError) as refused:
        client.predict(two_people(tmp_path / "two.mp4"), ASSETS / "demo_audio.wav", speaker=speaker)
    assert (refused.value.server_code, refused.value.field) == ("FIELD_INVALID", "speaker")

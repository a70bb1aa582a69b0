"""The demo clip and the demo speech, with the engine that a fresh installation has."""

from __future__ import annotations

from pathlib import Path

import av

from latentsync import Client
from latentsync.server.app import build_app
from tests.server.live import KEY, REPOSITORY, serving, settings_for

ASSETS = REPOSITORY / "assets"


def test_the_demo_runs_end_to_end(tmp_path: Path) -> None:
    app = build_app(settings_for(tmp_path))
    with serving(app) as url, Client(url, KEY) as client:
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

"""What is recorded of a request comes back as it was."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from latentsync.errors import EngineUnavailable, InternalError
from latentsync.jobs.serialization import (
    dump_options,
    dump_request,
    dump_source,
    load_options,
    load_request,
    stored_keys,
    stored_media,
)
from latentsync.schema.fields import SpeakerBox, SpeakerPoint, SyncMode
from latentsync.schema.run import (
    InlineSource,
    PathSource,
    RunOptions,
    RunRequest,
    Segment,
    UrlSource,
)

URL = UrlSource("https://example.com/face.mp4", "video_url")


@pytest.mark.parametrize(
    "options",
    [
        RunOptions(),
        RunOptions(seed=7, guidance_scale=2.0, sync_mode=SyncMode.LOOP, deadline_s=3.5),
        RunOptions(speaker=SpeakerPoint(frame=3, point=(1.0, 2.5)), guidance_interval=(0.2, 0.9)),
        RunOptions(speaker=SpeakerBox(frame=0, box=(1.0, 2.0, 3.0, 4.5))),
    ],
)
def test_options_come_back_as_they_were(options: RunOptions) -> None:
    assert load_options(json.loads(json.dumps(dump_options(options)))) == options


def test_a_sync_mode_of_an_earlier_version_counts_as_chosen() -> None:
    recorded = dump_options(RunOptions())
    assert recorded["sync_mode_given"] is False
    assert load_options(recorded).sync_mode_given is False
    del recorded["sync_mode_given"]
    assert load_options(recorded).sync_mode_given is True
    chosen = dump_options(RunOptions(sync_mode=SyncMode.BOUNCE))
    assert "sync_mode_given" not in chosen
    assert load_options(chosen).sync_mode_given is True


def test_media_come_back_as_addresses_or_as_files() -> None:
    stored = dump_source(PathSource(Path("/private/speech.wav"), "audio_base64"), "inputs/1/audio")
    recorded = {"video": dump_source(URL, None), "audio": stored}
    assert "/private" not in json.dumps(recorded)
    assert stored_keys(recorded) == ["inputs/1/audio"]
    plain = {**recorded, "options": dump_options(RunOptions())}
    request = load_request(plain, {"audio": Path("/here/audio")})
    assert request.video == URL
    assert request.audio == PathSource(Path("/here/audio"), "audio_base64")


def test_segments_come_back_with_their_recordings() -> None:
    asked = RunRequest(
        URL,
        UrlSource("https://example.com/all.wav", "audio_url"),
        RunOptions(keep_sound=False),
        (
            Segment(None, 0.5, 2.0, 1.25, SpeakerPoint(frame=3, point=(1.0, 2.5))),
            Segment(InlineSource("AAAA", "segments.1.audio_base64"), start_s=2.0),
        ),
    )
    stored = PathSource(Path("/here/own"), "segments.1.audio_base64")
    media = {
        name: dump_source(source, None if name != "segments.1.audio" else "inputs/1/own")
        for name, source in asked.media.items()
    }
    recorded = json.loads(json.dumps(dump_request(asked, media)))
    assert stored_media(recorded) == {"segments.1.audio": "inputs/1/own"}
    back = load_request(recorded, {"segments.1.audio": stored.path})
    assert back == replace(
        asked, segments=(asked.segments[0], replace(asked.segments[1], audio=stored))
    )


def test_a_medium_that_was_not_stored_is_a_defect() -> None:
    with pytest.raises(InternalError, match="video_base64"):
        dump_source(InlineSource("AAAA", "video_base64"), None)


RECORDED_BY_EARLIER_VERSION = """{
    "video": {"url": "https://example.com/face.mp4", "name": "video_url"},
    "segments.1.audio": {"key": "inputs/1/own", "name": "segments.1.audio_base64"},
    "audio": {"url": "https://example.com/all.wav", "name": "audio_url"},
    "options": {
        "guidance_scale": 2.0, "inference_steps": 8, "seed": 7, "sync_mode": "loop",
        "speaker": {"frame": 3, "point": [1, 2.5]}, "deadline_s": 3.5, "engine": "draft",
        "scheduler": "ddim", "feature_cache_interval": 1, "guidance_interval": [0.0, 1.0],
        "keep_sound": false
    },
    "segments": [
        {"start_s": 0.5, "end_s": 2, "audio_start_s": 1.25,
         "speaker": {"frame": 0, "box": [1, 2, 3, 4]}},
        {"start_s": 2.0, "end_s": null, "audio_start_s": 0.0, "speaker": "auto"}
    ]
}"""


def test_a_job_that_an_earlier_version_recorded_still_runs_and_is_recorded_alike() -> None:
    recorded = json.loads(RECORDED_BY_EARLIER_VERSION)
    own = PathSource(Path("/here/own"), "segments.1.audio_base64")
    request = load_request(recorded, {"segments.1.audio": own.path})
    box = SpeakerBox(frame=0, box=(1, 2, 3, 4))
    assert request == RunRequest(
        URL,
        UrlSource("https://example.com/all.wav", "audio_url"),
        RunOptions(
            guidance_scale=2.0,
            inference_steps=8,
            seed=7,
            sync_mode=SyncMode.LOOP,
            speaker=SpeakerPoint(frame=3, point=(1.0, 2.5)),
            deadline_s=3.5,
            engine="draft",
            keep_sound=False,
        ),
        (Segment(None, 0.5, 2.0, 1.25, box), Segment(own, start_s=2.0)),
    )
    assert request.options.sync_mode_given
    media = {name: recorded[name] for name in request.media}
    assert json.loads(json.dumps(dump_request(request, media))) == recorded


def test_a_recorded_engine_that_is_gone_is_an_engine_that_cannot_run() -> None:
    with pytest.raises(EngineUnavailable, match="no engine named 'older'"):
        load_options({**dump_options(RunOptions()), "engine": "older"})

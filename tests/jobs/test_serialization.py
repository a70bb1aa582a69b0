"""What is recorded of a request comes back as it was."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from latentsync.errors import InternalError
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
    recorded = dump_options(RunOptions(sync_mode_given=False))
    assert load_options(recorded).sync_mode_given is False
    del recorded["sync_mode_given"]
    assert load_options(recorded).sync_mode_given is True


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

"""What contract A accepts, beyond what the HTTP tests send."""

from __future__ import annotations

import re
from typing import Any

import pytest

from latentsync.errors import (
    ConflictingFields,
    InvalidField,
    InvalidRequest,
    MalformedBody,
    MissingField,
    UnknownField,
)
from latentsync.schema.fields import SpeakerBox, SpeakerPoint
from latentsync.schema.predict import PredictRequest, parse_request, validate_fields
from latentsync.schema.run import InlineSource, RunOptions, UrlSource

URLS = {"video_url": "https://a.example/v.mp4", "audio_url": "https://a.example/a.wav"}


def test_a_chosen_sync_mode_is_distinguished_from_the_default() -> None:
    body = {"video_url": "http://a/v", "audio_url": "http://a/a"}
    assert not parse_request(body).options.sync_mode_given
    assert parse_request({**body, "sync_mode": "bounce"}).options.sync_mode_given


def test_the_defaults_are_those_of_the_contract() -> None:
    request = parse_request(URLS)
    assert request.options == RunOptions(guidance_scale=1.5, inference_steps=20, seed=1247)
    assert request.video == UrlSource(URLS["video_url"], name="video_url")
    assert request.audio == UrlSource(URLS["audio_url"], name="audio_url")


def test_the_options_of_a_run_have_the_defaults_of_the_request() -> None:
    for name, field in PredictRequest.model_fields.items():
        if hasattr(RunOptions(), name):
            assert getattr(RunOptions(), name) == field.default


def test_media_text_never_shows_in_a_representation() -> None:
    request = parse_request({"video_base64": "SECRET", "audio_base64": "SECRET"})
    assert request.video == InlineSource("SECRET", name="video_base64")
    assert "SECRET" not in repr(request)


def test_a_form_given_as_null_counts_as_not_given() -> None:
    assert parse_request({**URLS, "video_base64": None}) == parse_request(URLS)


@pytest.mark.parametrize(
    "fields",
    [
        {"guidance_scale": 1.0},
        {"guidance_scale": 3},
        {"inference_steps": 1},
        {"inference_steps": 50},
        {"seed": 0},
        {"seed": 2**63 - 1},
        {"deadline_s": 0.5},
        {"sync_mode": "remap"},
    ],
)
def test_the_ends_of_the_ranges_are_allowed(fields: dict[str, Any]) -> None:
    options = parse_request({**URLS, **fields}).options
    for name, value in fields.items():
        assert getattr(options, name) == value


def test_whole_numbers_may_have_a_decimal_point() -> None:
    request = parse_request({**URLS, "inference_steps": 8.0, "seed": 3.0})
    assert request.options.inference_steps == 8
    assert isinstance(request.options.inference_steps, int)
    assert isinstance(request.options.seed, int)


def test_a_random_seed_is_drawn_once_per_request() -> None:
    seeds = {parse_request({**URLS, "seed": -1}).options.seed for _ in range(5)}
    assert len(seeds) == 5
    assert all(0 <= seed < 2**32 for seed in seeds)


@pytest.mark.parametrize(
    ("given", "speaker"),
    [
        ("auto", "auto"),
        ({"frame": 3, "point": [1, 2.5]}, SpeakerPoint(frame=3, point=(1, 2.5))),
        ({"point": [0, 0]}, SpeakerPoint(frame=0, point=(0, 0))),
        ({"box": [1, 2, 3, 4]}, SpeakerBox(frame=0, box=(1, 2, 3, 4))),
    ],
)
def test_every_way_to_choose_a_speaker(given: Any, speaker: object) -> None:
    assert parse_request({**URLS, "speaker": given}).options.speaker == speaker


@pytest.mark.parametrize(
    "given",
    [
        None,
        "",
        {},
        {"frame": 1},
        {"point": [1]},
        {"point": [-1, 0]},
        {"point": ["1", 2]},
        {"point": [True, 2]},
        {"point": [1, 2], "box": [1, 2, 3, 4]},
        {"frame": -1, "point": [1, 2]},
        {"frame": 2**31, "point": [1, 2]},
        {"frame": 1.5, "point": [1, 2]},
        {"box": [3, 2, 1, 4]},
        {"box": [1, 2, 3, float("inf")]},
        {"point": [1, 2], "frames": 1},
    ],
)
def test_other_speakers_are_refused_with_what_is_allowed(given: Any) -> None:
    with pytest.raises(InvalidField, match='Allowed: "auto"') as refused:
        parse_request({**URLS, "speaker": given})
    assert refused.value.field == "speaker"


def test_a_dotted_unknown_name_is_unknown() -> None:
    with pytest.raises(UnknownField, match=r"'seed\.x'"):
        parse_request({**URLS, "seed.x": 1})


def test_options_can_be_checked_without_sources() -> None:
    assert validate_fields({"seed": 3}).seed == 3


@pytest.mark.parametrize(
    ("body", "name"), [([], "an array"), ("x", "a string"), (None, "null"), (1.5, "a number")]
)
def test_a_body_that_is_no_object_is_named_in_json_words(body: object, name: str) -> None:
    with pytest.raises(MalformedBody, match=f"not {name}"):
        parse_request(body)


def segments(*given: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"video_url": "http://a.example/v.mp4", "segments": list(given), **fields}


def test_segments_may_have_recordings_and_speakers_of_their_own() -> None:
    request = parse_request(
        segments(
            {"audio_url": "http://a.example/1.wav", "end_s": 2},
            {"audio_base64": "AAAA", "start_s": 1.5, "audio_start_s": 0.25, "speaker": POINT},
            speaker={"frame": 2, "box": [1, 2, 3, 4]},
        )
    )
    first, second = request.segments
    assert request.audio is None
    assert first.audio == UrlSource("http://a.example/1.wav", "segments.0.audio_url")
    assert (first.start_s, first.end_s) == (0, 2)
    assert first.speaker == SpeakerBox(frame=2, box=(1, 2, 3, 4))
    assert second.audio == InlineSource("AAAA", "segments.1.audio_base64")
    assert (second.start_s, second.end_s, second.audio_start_s) == (1.5, None, 0.25)
    assert second.speaker == SpeakerPoint(frame=0, point=(5, 6))
    assert list(request.media) == ["video", "segments.0.audio", "segments.1.audio"]


def test_segments_may_share_the_recording_of_the_request() -> None:
    request = parse_request(segments({}, {"start_s": 3}, audio_url="http://a.example/a.wav"))
    assert [segment.audio for segment in request.segments] == [None, None]
    assert list(request.media) == ["video", "audio"]


POINT = {"frame": 0, "point": [5, 6]}
OWN = {"audio_url": "http://a.example/1.wav"}


@pytest.mark.parametrize(
    ("body", "error", "field", "words"),
    [
        (segments({}), MissingField, "segments.0.audio_url", "one recording for all segments"),
        (segments(), MissingField, "audio_url", "Give one of audio_url or audio_base64"),
        (segments(OWN, audio_url="http://a"), ConflictingFields, "audio_url", "would not be used"),
        (
            segments({**OWN, "audio_base64": "AAAA"}),
            ConflictingFields,
            "segments.0.audio_url",
            "either segments.0.audio_url or segments.0.audio_base64",
        ),
        (segments(OWN, sync_mode="remap"), ConflictingFields, "sync_mode", "remap"),
        (segments({**OWN, "start_s": -1}), InvalidField, "segments.0.start_s", "greater than"),
        (segments({**OWN, "start_s": "1"}), InvalidField, "segments.0.start_s", "valid number"),
        (segments(OWN, {**OWN, "start_s": 3, "end_s": 3}), InvalidField, "segments.1", "after"),
        (segments({**OWN, "speaker": {}}), InvalidField, "segments.0.speaker", '"auto", {"frame"'),
        (segments({**OWN, "voice": 1}), UnknownField, "segments.0.voice", "Allowed: audio_url"),
        (segments(1), InvalidField, "segments.0", "must be an object"),  # type: ignore[arg-type]
        (segments(*101 * [OWN]), InvalidField, "segments", "at most 100"),
        (segments(OWN, keep_sound=1), InvalidField, "keep_sound", "boolean"),
    ],
)
def test_segments_that_cannot_be_meant_are_refused(
    body: dict[str, Any], error: type[InvalidRequest], field: str, words: str
) -> None:
    with pytest.raises(error, match=re.escape(words)) as caught:
        parse_request(body)
    assert caught.value.field == field

"""What contract A accepts, beyond what the HTTP tests send."""

from __future__ import annotations

from typing import Any

import pytest

from latentsync.errors import InvalidField, MalformedBody, UnknownField
from latentsync.schema import (
    InlineSource,
    PredictRequest,
    RunOptions,
    SpeakerBox,
    SpeakerPoint,
    UrlSource,
    parse_request,
    validate_fields,
)

URLS = {"video_url": "https://a.example/v.mp4", "audio_url": "https://a.example/a.wav"}


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
        {"frame": 1.0, "point": [1, 2]},
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

"""What the README says of fields, settings and files is what the code has."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from latentsync.cli.segments import read_speech
from latentsync.client import Segment
from latentsync.client._payload import segment_fields
from latentsync.errors import InvalidField
from latentsync.schema.predict import PredictRequest, SegmentFields, parse_request, validate_fields
from latentsync.settings import Settings, variable_of

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")


def test_the_settings_table_has_every_setting_and_no_other():
    listed = re.findall(r"^\| `(LATENTSYNC_\w+)` \|", README, re.MULTILINE)
    assert sorted(listed) == sorted(map(variable_of, Settings.model_fields))


def test_the_settings_table_tells_the_defaults():
    shown_defaults = dict(re.findall(r"^\| `(LATENTSYNC_\w+)` \| (\S+) \|", README, re.MULTILINE))
    for name, field in Settings.model_fields.items():
        shown, default = shown_defaults.get(variable_of(name), ""), field.default
        if isinstance(default, int | float) and not isinstance(default, bool):
            assert float(shown) == default, name


def test_the_fields_table_has_every_field_of_the_request():
    table = README.split("### Fields of the request")[1].split("\n\n")[1]
    assert set(re.findall(r"`(\w+)`", table)) >= set(PredictRequest.model_fields)


def test_the_error_shown_is_the_error_answered():
    with pytest.raises(InvalidField) as caught:
        parse_request({"video_url": "http://a/b", "audio_url": "http://a/b", "inference_steps": 51})
    assert caught.value.code in README
    assert caught.value.message in README


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_linked_files_are_there(link):
    assert (ROOT / link).is_file()


@pytest.mark.parametrize("paper", ["CONTRIBUTING.md", "SECURITY.md", "assets/LICENCES.md"])
def test_what_the_papers_name_is_there(paper):
    text = (ROOT / paper).read_text("utf-8")
    for link in re.findall(r"\]\(([^)#:]+)", text):
        assert ((ROOT / paper).parent / link).is_file(), link
    for name in re.findall(r"`((?:latentsync|tests|docs)/[\w/]+\.py)`", text):
        assert (ROOT / name).exists(), name
    known = set(map(variable_of, Settings.model_fields))
    assert set(re.findall(r"LATENTSYNC_\w+", text)) <= known


def test_every_folder_and_file_of_the_map_exists():
    house = README.split("## The house")[1].split("```")[1]
    for name in re.findall(r"^(\S+?)  ", house, re.MULTILINE):
        if "{" not in name:
            assert (ROOT / name).exists(), name


def test_the_segments_shown_are_allowed_and_the_same_everywhere(tmp_path):
    section = README.split("### Several speakers")[1].split("\n## ")[0]
    form = json.loads(re.search(r"-F 'segments=(.*?)'", section, re.DOTALL)[1])
    (tmp_path / "segments.json").write_text(re.search(r"<<END\n(.*?)END", section, re.DOTALL)[1])
    listed = read_speech(None, tmp_path / "segments.json")
    python = re.search(r"^segments = \[.*?^\]", section, re.DOTALL | re.MULTILINE)[0]
    shown = {"Segment": Segment}
    exec(python, shown)  # what the README tells people to run
    fields = [segment_fields(one) for one in listed]
    assert [segment_fields(one) for one in shown["segments"]] == fields
    checked = validate_fields({"segments": form}).segments
    assert validate_fields({"segments": fields}).segments == checked
    assert [Path(one.audio).name for one in listed] == [one.audio for one in shown["segments"]]


def test_the_table_of_a_segment_has_every_field():
    table = README.split("| field of a segment |")[1].split("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", table)) >= set(SegmentFields.model_fields)

"""The file of --segments: what is read from it, and what is said of a bad one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from latentsync.cli.segments import read_speech
from latentsync.client import Segment
from latentsync.errors import (
    ConflictingFields,
    InvalidField,
    LatentSyncError,
    MissingField,
    UnknownField,
)


def written(folder: Path, content: object) -> Path:
    path = folder / "a talk.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return path


def test_files_are_meant_from_the_folder_of_the_list(tmp_path: Path) -> None:
    left = {"frame": 0, "point": [3, 4]}
    entries = [
        {"audio": "voices/ann ü.wav", "start_s": 0.5, "speaker": left},
        {"audio": "/somewhere/ben.wav", "end_s": 2, "audio_start_s": 1},
        {"audio": "https://a.example/c.wav"},
        {"audio": "upload://d"},
    ]
    assert read_speech(None, written(tmp_path, entries)) == (
        Segment(str(tmp_path / "voices" / "ann ü.wav"), start_s=0.5, speaker=left),
        Segment("/somewhere/ben.wav", end_s=2, audio_start_s=1),
        Segment("https://a.example/c.wav"),
        Segment("upload://d"),
    )


def test_segments_may_share_the_audio(tmp_path: Path) -> None:
    path = written(tmp_path, [{"end_s": 2}, {"start_s": 2, "audio": None}])
    assert read_speech("a.wav", path) == (Segment(end_s=2), Segment(start_s=2))


def test_without_a_file_there_are_none() -> None:
    assert read_speech("a.wav", None) == ()


@pytest.mark.parametrize(
    ("audio", "content", "error", "said"),
    [
        (None, "", InvalidField, "talk.json: line 1, column 1: "),
        (None, '[{"audio": a.wav}]', InvalidField, "talk.json: line 1, column 12: "),
        (None, "[" * 100_000, InvalidField, "it is not JSON"),
        (None, "9" * 5000, InvalidField, "it is not JSON"),
        (None, [], InvalidField, "must be a list"),
        (None, {"segments": []}, InvalidField, "must be a list"),
        (None, ["x"], InvalidField, "segments.0 is 'x': it must be an object"),
        (None, [{"audio": 5}], InvalidField, "segments.0.audio is 5"),
        (None, [{"adio": "x"}], UnknownField, "'segments.0.adio'. Allowed: audio, start_s"),
        (None, [{}], MissingField, "Give segments.0.audio"),
        ("a.wav", [{"audio": "b.wav"}], ConflictingFields, "shared audio is not used"),
    ],
)
def test_a_bad_file_is_refused_in_a_sentence(
    tmp_path: Path, audio: str | None, content: object, error: type[LatentSyncError], said: str
) -> None:
    with pytest.raises(error) as refused:
        read_speech(audio, written(tmp_path, content))
    assert said in refused.value.message
    assert "\n" not in refused.value.message


def test_invalid_unicode_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b"RIFF\x80\xff")
    for path in (tmp_path / "x.json", tmp_path, tmp_path / "none.json", tmp_path / "a\0b"):
        with pytest.raises(InvalidField, match="--segments") as refused:
            read_speech(None, path)
        assert refused.value.field == "segments"


def test_there_must_be_speech() -> None:
    with pytest.raises(MissingField, match="--audio, or --segments"):
        read_speech(None, None)

"""Reads the file of ``--segments``, a JSON list::

    [{"audio": "ann.wav", "start_s": 0.5, "speaker": {"frame": 0, "point": [320, 180]}},
     {"audio": "ben.wav", "start_s": 4, "end_s": 7.5, "speaker": {"frame": 0, "point": [960, 180]}}]

File names are relative to the folder of this file.
"""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any, Never

from latentsync.client._payload import Segment, as_address, check_speech
from latentsync.errors import InvalidField, MissingField, shorten
from latentsync.schema.predict import unknown_field

_KEYS = [field.name for field in fields(Segment)]


def read_speech(audio: str | None, segments_path: Path | None) -> tuple[Segment, ...]:
    """Return the segments of the file, or none if ``--audio`` is the only recording.

    Args:
        audio: value of ``--audio``.
        segments_path: value of ``--segments``.

    Raises:
        InvalidField: the file cannot be read, or is not a list of segments.
        UnknownField: a segment has an unknown key.
        MissingField, ConflictingFields: a recording is missing or unused.
    """
    if segments_path is None:
        if audio is None:
            raise MissingField("Give --audio, or --segments, or both.", field="audio")
        return ()
    entries = _read_json(segments_path)
    if not isinstance(entries, list) or not entries:
        _refuse(segments_path, 'it must hold a list such as [{"audio": "a.wav", "start_s": 0.5}]')
    folder = segments_path.parent
    segments = tuple(_segment(f"segments.{n}", entry, folder) for n, entry in enumerate(entries))
    check_speech(audio, segments)
    return segments


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except OSError as error:
        _refuse(path, error.strerror or str(error))
    except json.JSONDecodeError as error:
        _refuse(path, f"line {error.lineno}, column {error.colno}: {error.msg}")
    except (
        ValueError,
        RecursionError,
    ) as error:  # not UTF-8, a null character, or nested too deeply
        _refuse(path, f"it is not JSON in UTF-8: {error}")


def _segment(name: str, entry: object, folder: Path) -> Segment:
    """Build one segment; numbers and speaker are validated with the other options."""
    if not isinstance(entry, dict):
        raise InvalidField(f"{name} is {shorten(entry)}: it must be an object.", field=name)
    for key in entry:
        if key not in _KEYS:
            raise unknown_field(f"{name}.{key}", _KEYS)
    return Segment(**{**entry, "audio": _audio(f"{name}.audio", entry.get("audio"), folder)})


def _audio(name: str, given: object, folder: Path) -> str | None:
    if given is None:
        return None
    if not isinstance(given, str):
        raise InvalidField(
            f"{name} is {shorten(given)}: it must be a file name or a URL.", field=name
        )
    return given if as_address(name, given) else str(folder / given)


def _refuse(path: Path, reason: str) -> Never:
    raise InvalidField(f"--segments {path}: {reason}.", field="segments")

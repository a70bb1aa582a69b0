"""A submission as a form: options as fields, written as in JSON, and media as files.

The files are ``video``, ``audio`` and, for a segment with a recording of its own,
``segments.0.audio`` and so on.
"""

import hashlib
import shutil
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from latentsync import errors
from latentsync.jobs.disk_space import DiskReserve
from latentsync.jobs.engine_availability import Availability
from latentsync.schema.engines import NAMES
from latentsync.schema.fields import SEGMENTS_MAX
from latentsync.schema.run import PathSource, RunRequest, segment_recording
from latentsync.server.request_body import asking_for_room, parse_json

_OF_SEGMENT = {segment_recording(index): index for index in range(SEGMENTS_MAX)}
_FILES = ("video", "audio", *_OF_SEGMENT)
_FILES_SHOWN = f"video, audio, {_FILES[2]} to {_FILES[-1]}"
_FIELDS_MAX = 30  # far more than there are
_FIELD_BYTES_MAX = 256 * 1024  # as many segments as allowed, each with a long address
_TEXT_FIELDS = {"video_url", "audio_url", "sync_mode", "engine", "scheduler"}
_STAND_IN_URL = "upload://"  # for a file of the form while the other fields are checked


@dataclass(frozen=True)
class Form:
    """What a form holds.

    Attributes:
        fields: their values as JSON would hold them.
        files: by their names.
    """

    fields: dict[str, Any]
    files: dict[str, UploadFile]


class _EngineFirst(MultiPartParser):
    """Stops reading at the field ``engine`` if that cannot run, whatever files are to come."""

    engines: Availability

    def on_part_end(self) -> None:
        super().on_part_end()
        name, value = self.items[-1]
        if name == "engine" and value in NAMES:
            self.engines.require(str(value))


@asynccontextmanager
async def open_form(
    request: Request, reserve: DiskReserve, max_bytes: int, engines: Availability | None = None
) -> AsyncIterator[FormData]:
    """Read a form; its files lie in nameless files of the system's temporary folder.

    Args:
        request: with its body still to come.
        reserve: what must stay free on the disk.
        max_bytes: of all files together.
        engines: that can run now; None if a call for another one may be answered, too.

    Raises:
        EngineUnavailable: no worker can run the engine asked for; noticed when its field is read.
        DiskFull: there is no room for it; noticed before it is read, if its size is declared.
        MalformedBody: it is no form, or has too many parts or too large fields.
        Canceled: the caller hung up.
    """
    require = partial(reserve.require_for_body, spooled_in=Path(tempfile.gettempdir()))
    try:
        async with aclosing(asking_for_room(request, require, max_bytes).stream()) as body:
            form = await _parser(request, body, engines).parse()
    except MultiPartException as error:
        raise errors.MalformedBody(f"The form cannot be read: {error.message}") from None
    except ClientDisconnect:
        raise errors.Canceled("The caller hung up while sending the body.") from None
    try:
        yield form
    finally:
        await form.close()


def _parser(
    request: Request, body: AsyncGenerator[bytes, None], engines: Availability | None
) -> MultiPartParser:
    limits = {
        "max_files": len(_FILES),
        "max_fields": _FIELDS_MAX,
        "max_part_size": _FIELD_BYTES_MAX,
    }
    if engines is None:
        return MultiPartParser(request.headers, body, **limits)
    parser = _EngineFirst(request.headers, body, **limits)
    parser.engines = engines
    return parser


def read_form(parts: FormData) -> Form:
    """Tell fields and files apart; raises MalformedBody for doubles, UnknownField for a file.

    A control that was left empty is sent as well, by browsers and by the page of ``/docs``: an
    empty field, or a file without a name. It counts as not given.
    """
    form = Form({}, {})
    for name, part in parts.multi_items():
        if name in form.fields or name in form.files:
            raise errors.MalformedBody(f"The field {errors.shorten(name)} is in the form twice.")
        if _is_left_empty(part):
            continue
        if isinstance(part, UploadFile):
            form.files[_file_name(name)] = part
        else:
            form.fields[name] = _value(name, part)
    return form


def with_placeholders(
    options: Mapping[str, Any], files: Mapping[str, UploadFile]
) -> dict[str, Any]:
    """Return the options with an address in the place of every file.

    Args:
        options: each checked by itself.
        files: of the form.

    Raises:
        ConflictingFields: a medium is there in another form, too.
        UnknownField: a file is for a segment that is not there.
    """
    fields = dict(options)
    if "segments" in fields:
        fields["segments"] = [dict(segment) for segment in fields["segments"]]
    for name in files:
        holder, medium = fields, name
        if name in _OF_SEGMENT:
            holder, medium = _segment_of(name, fields.get("segments", [])), "audio"
        for form in ("url", "base64"):
            if f"{medium}_{form}" in holder:
                raise errors.ConflictingFields(
                    f"Give either {name} or {name}_{form}, not both.", field=name
                )
        holder[f"{medium}_url"] = _STAND_IN_URL
    return fields


def take_files(
    request: RunRequest, files: Mapping[str, UploadFile], folder: Path, max_bytes: int
) -> tuple[RunRequest, dict[str, str]]:
    """Copy the files and put them where their stand-ins are.

    Args:
        request: with a stand-in for every file.
        files: of the form.
        folder: where they go.
        max_bytes: largest file.

    Returns:
        The request, and the hash of each file's content.

    Raises:
        TooManyBytes: a file is larger than allowed.
    """
    hashes = {}
    for name, file in files.items():
        path = folder / name
        hashes[name] = _save(file.file, path, name, max_bytes)
        request = _with_source(request, PathSource(path, name=name))
    return request, hashes


def _is_left_empty(part: UploadFile | str) -> bool:
    return not part.filename and not part.size if isinstance(part, UploadFile) else part == ""


def _file_name(name: str) -> str:
    if name == "segments":
        raise errors.UnknownField(
            "segments is a field of the form, not a file; with curl: -F 'segments=<FILE'.",
            field=name,
        )
    if name not in _FILES:
        raise errors.UnknownField(
            f"Unknown file {errors.shorten(name)}. Allowed: {_FILES_SHOWN}.",
            field=errors.shorten(name).strip("'\""),
        )
    return name


def _value(name: str, text: str) -> Any:
    """Return a form field as JSON would hold it: numbers and objects are written as in JSON."""
    if name in _TEXT_FIELDS or name.endswith("_base64"):
        return text
    try:
        return parse_json(text.encode("utf-8", "surrogatepass"))
    except errors.MalformedBody:
        return text  # "auto", an address, or a mistake that the field's own check explains


def _segment_of(name: str, segments: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the segment whose recording a file is."""
    index = _OF_SEGMENT[name]
    if index >= len(segments):
        raise errors.UnknownField(
            f"{name} is a file for a segment that is not there: segments has "
            f"{len(segments)} entries.",
            field=name,
        )
    return segments[index]


def _with_source(request: RunRequest, source: PathSource) -> RunRequest:
    if source.name == "video":
        return replace(request, video=source)
    if source.name == "audio":
        return replace(request, audio=source)
    segments = list(request.segments)
    index = _OF_SEGMENT[source.name]
    segments[index] = replace(segments[index], audio=source)
    return replace(request, segments=tuple(segments))


def _save(source: BinaryIO, path: Path, name: str, max_bytes: int) -> str:
    """Copy a received file; returns the hash of its content."""
    if source.seek(0, 2) > max_bytes:
        raise errors.TooManyBytes(f"{name} is larger than {max_bytes} bytes.", field=name)
    source.seek(0)
    with path.open("wb") as target:
        shutil.copyfileobj(source, target)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

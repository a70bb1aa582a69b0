"""Predictions as a form: options as fields, written as in JSON, and media as files.

The files are ``video``, ``audio`` and, for a segment with a recording of its own,
``segments.0.audio`` and so on.
"""

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

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
_PLACEHOLDER_URL = "upload://"  # for a file of the form while the other fields are checked


@dataclass(frozen=True)
class Form:
    """The content of a form.

    Attributes:
        fields: their values as JSON would hold them.
        files: by their names.
    """

    fields: dict[str, Any]
    files: dict[str, UploadFile]


class ReceivedFile:
    """A file of a form, written once and hashed while it is written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("xb")
        self._hash = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        return self._file.write(data)

    def seek(self, offset: int) -> int:
        """Flush: the parser rewinds a file at its end, and readers open the path."""
        self._file.flush()
        return offset

    def close(self) -> None:
        self._file.close()

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


class _Parser(MultiPartParser):
    """Writes files into a folder instead of Starlette's temporary files.

    Stops reading at the field ``engine`` if that engine cannot run.
    """

    folder: Path
    engines: Availability | None

    def on_headers_finished(self) -> None:
        super().on_headers_finished()
        part = self._current_part
        if part.file is not None:
            part.file.file.close()  # Starlette's, which is still empty
            received = cast(Any, ReceivedFile(self.folder / f"file-{self._current_files}"))
            part.file.file = received
            self._files_to_close_on_error.append(received)

    def on_part_end(self) -> None:
        super().on_part_end()
        name, value = self.items[-1]
        if self.engines is not None and name == "engine" and value in NAMES:
            self.engines.require(str(value))


@asynccontextmanager
async def open_form(
    request: Request,
    folder: Path,
    reserve: DiskReserve,
    max_bytes: int,
    engines: Availability | None = None,
) -> AsyncIterator[FormData]:
    """Read a form.

    Args:
        request: whose body is not read yet.
        folder: for its files, each one a :class:`ReceivedFile`.
        reserve: what must stay free on the disk.
        max_bytes: of all files together.
        engines: that can run now; None accepts all.

    Raises:
        EngineUnavailable: no worker can run the engine; raised when its field is read.
        DiskFull: there is no room for the form; raised before reading if its size is declared.
        MalformedBody: it is not a form, or has too many parts or too large fields.
        Canceled: the caller hung up.
    """
    try:
        bounded = asking_for_room(request, reserve.require_for_body, max_bytes)
        async with aclosing(bounded.stream()) as body:
            form = await _parser(request, body, folder, engines).parse()
    except MultiPartException as error:
        raise errors.MalformedBody(f"The form cannot be read: {error.message}") from None
    except ClientDisconnect:
        raise errors.Canceled("The caller hung up while sending the body.") from None
    try:
        yield form
    finally:
        await form.close()


def _parser(
    request: Request,
    body: AsyncGenerator[bytes, None],
    folder: Path,
    engines: Availability | None,
) -> MultiPartParser:
    parser = _Parser(
        request.headers,
        body,
        max_files=len(_FILES),
        max_fields=_FIELDS_MAX,
        max_part_size=_FIELD_BYTES_MAX,
    )
    parser.folder, parser.engines = folder, engines
    return parser


def read_form(parts: FormData) -> Form:
    """Separate fields and files.

    Browsers and the page of ``/docs`` send controls that were left empty, too: as an empty field
    or a file without a name. They count as not given.

    Raises:
        MalformedBody: a name is used twice.
        UnknownField: a file has an unknown name.
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
    """Return the options with a placeholder URL for every file.

    Args:
        options: each checked by itself.
        files: of the form.

    Raises:
        ConflictingFields: a medium is given in another form, too.
        UnknownField: a file is for a segment that does not exist.
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
        holder[f"{medium}_url"] = _PLACEHOLDER_URL
    return fields


def take_files(
    request: RunRequest, files: Mapping[str, UploadFile], max_bytes: int
) -> tuple[RunRequest, dict[str, str]]:
    """Put the received files in the place of their placeholders.

    Args:
        request: with a placeholder for every file.
        files: of the form.
        max_bytes: largest file.

    Returns:
        The request, and the hash of each file's content.

    Raises:
        TooManyBytes: a file is larger than allowed.
    """
    hashes = {}
    for name, file in files.items():
        if (file.size or 0) > max_bytes:
            raise errors.TooManyBytes(f"{name} is larger than {max_bytes} bytes.", field=name)
        received = cast(ReceivedFile, file.file)
        hashes[name] = received.hexdigest()
        request = _with_source(request, PathSource(received.path, name=name, disposable=True))
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

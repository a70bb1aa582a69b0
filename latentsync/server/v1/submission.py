"""What a call to the native API hands in, as JSON or as a form with files, turned into jobs."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from latentsync.errors import (
    Canceled,
    ConflictingFields,
    InvalidField,
    MalformedBody,
    TooManyBytes,
    UnknownField,
    shorten,
)
from latentsync.jobs.desk import Submission, fingerprint
from latentsync.jobs.job import Webhook
from latentsync.schema import PathSource, RunRequest, parse_request
from latentsync.server.body import parse_json, understand_json
from latentsync.server.v1.webhook import parse_webhook
from latentsync.settings import Settings
from latentsync.workspace import translate_disk_full, working_folder

MEDIA = ("video", "audio")
BATCH_MAX = 100
_FIELDS_MAX = 30  # of a form, far more than there are
_FIELD_BYTES_MAX = 64 * 1024
_TEXT_FIELDS = {"video_url", "audio_url", "sync_mode", "engine", "scheduler"}
_STAND_IN_URL = "upload://"  # for a file of the form while the other fields are checked
_KEY_CHARACTERS_MAX = 200


@dataclass(frozen=True)
class _Names:
    """How a caller names its submission."""

    id: str | None
    idempotency_key: str | None


def idempotency_key(request: Request) -> str | None:
    """Return the caller's name for this submission; raises InvalidField."""
    key = request.headers.get("idempotency-key")
    if key is None:
        return None
    if not 0 < len(key) <= _KEY_CHARACTERS_MAX or not key.isprintable():
        raise InvalidField(
            f"Idempotency-Key is {shorten(key)}. Allowed: 1 to {_KEY_CHARACTERS_MAX} characters.",
            field="Idempotency-Key",
        )
    return key


@asynccontextmanager
async def read_submissions(
    request: Request, settings: Settings, *, job_id: str | None = None
) -> AsyncIterator[tuple[list[Submission], bool]]:
    """Read a call's body; files of a form exist only inside the block.

    Args:
        request: the call, with its body still to come.
        settings: limits and the root of the working folders.
        job_id: the caller's own id of the one prediction.

    Yields:
        The submissions, and whether the body was a list of them.

    Raises:
        InvalidRequest: and what :func:`latentsync.server.body.understand_json` raises.
    """
    names = _Names(job_id, idempotency_key(request))
    content_type = request.headers.get("content-type", "")
    if content_type.split(";")[0].strip().lower() != "multipart/form-data":
        yield await understand_json(request, lambda body: _from_json(body, names))
        return
    with working_folder(settings.work_dir) as folder, translate_disk_full():
        async with _form(request) as form:
            yield [await run_in_threadpool(_from_form, form, folder, settings, names)], False


def _from_json(body: object, names: _Names) -> tuple[list[Submission], bool]:
    entries = body["predictions"] if _wraps_list(body) else body
    if not isinstance(entries, list):
        return [_submission(body, names)], False
    if names.id is not None:
        raise MalformedBody("The body must be a JSON object: the address names one prediction.")
    if not 1 <= len(entries) <= BATCH_MAX:
        raise InvalidField(
            f"predictions has {len(entries)} entries. Allowed: 1 to {BATCH_MAX}.",
            field="predictions",
        )
    return list(_of_batch(entries, names)), True


def _wraps_list(body: object) -> TypeGuard[dict[str, object]]:
    return isinstance(body, dict) and set(body) == {"predictions"}


def _of_batch(entries: list[object], names: _Names) -> Iterator[Submission]:
    """Yield an entry after the other; a repeated call finds each under the key and its number."""
    for number, entry in enumerate(entries):
        key = names.idempotency_key
        own = replace(names, idempotency_key=None if key is None else f"{key}/{number}")
        yield _submission(entry, own)


def _submission(body: object, names: _Names) -> Submission:
    webhook, fields = _take_webhook(body)
    return _named(parse_request(fields), fingerprint({"body": body}), webhook, names)


def _take_webhook(body: object) -> tuple[Webhook | None, object]:
    """Split off the one field that is no option of the run."""
    if not isinstance(body, dict) or "webhook" not in body:
        return None, body
    fields = {name: value for name, value in body.items() if name != "webhook"}
    return parse_webhook(body["webhook"]), fields


def _named(request: RunRequest, asked: str, webhook: Webhook | None, names: _Names) -> Submission:
    return Submission(request, asked, names.id, names.idempotency_key, webhook)


@asynccontextmanager
async def _form(request: Request) -> AsyncIterator[FormData]:
    """Read a form; its files lie in nameless files of the system's temporary folder."""
    try:
        form = await request.form(
            max_files=len(MEDIA), max_fields=_FIELDS_MAX, max_part_size=_FIELD_BYTES_MAX
        )
    except HTTPException as error:
        raise MalformedBody(f"The form cannot be read: {error.detail}") from None
    except ClientDisconnect:
        raise Canceled("The caller hung up while sending the body.") from None
    try:
        yield form
    finally:
        await form.close()


def _from_form(form: FormData, folder: Path, settings: Settings, names: _Names) -> Submission:
    """Turn a form into a submission: options as fields, media as files or as addresses."""
    fields: dict[str, Any] = {}
    files: dict[str, UploadFile] = {}
    for name, value in form.multi_items():
        if name in fields or name in files:
            raise MalformedBody(f"The field {shorten(name)} is in the form twice.")
        if isinstance(value, UploadFile):
            files[_file_field(name)] = value
        else:
            fields[name] = _value(name, value)
    webhook, options = _take_webhook(fields)
    request = parse_request(_with_stand_ins(options, files))
    hashes = {}
    for name, file in files.items():
        path = folder / name
        hashes[name] = _save(file.file, path, name, settings.max_media_bytes)
        source = PathSource(path, name=name)
        is_video = name == "video"
        request = replace(request, video=source) if is_video else replace(request, audio=source)
    return _named(request, fingerprint({"fields": fields, "files": hashes}), webhook, names)


def _file_field(name: str) -> str:
    if name not in MEDIA:
        raise UnknownField(
            f"Unknown file {shorten(name)}. Allowed: {', '.join(MEDIA)}.", field=shorten(name)
        )
    return name


def _value(name: str, text: str) -> Any:
    """Return a form field as JSON would hold it: numbers and objects are written as in JSON."""
    if name in _TEXT_FIELDS or name.endswith("_base64"):
        return text
    try:
        return parse_json(text.encode("utf-8", "surrogatepass"))
    except MalformedBody:
        return text  # "auto", an address, or a mistake that the field's own check explains


def _with_stand_ins(options: object, files: Mapping[str, UploadFile]) -> object:
    fields = dict(options) if isinstance(options, dict) else {}
    for name in files:
        for other in (f"{name}_url", f"{name}_base64"):
            if other in fields:
                raise ConflictingFields(f"Give either {name} or {other}, not both.", field=name)
        fields[f"{name}_url"] = _STAND_IN_URL
    return fields


def _save(source: BinaryIO, path: Path, name: str, max_bytes: int) -> str:
    """Copy a received file; returns the hash of its content."""
    if source.seek(0, 2) > max_bytes:
        raise TooManyBytes(f"{name} is larger than {max_bytes} bytes.", field=name)
    source.seek(0)
    with path.open("wb") as target:
        shutil.copyfileobj(source, target)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

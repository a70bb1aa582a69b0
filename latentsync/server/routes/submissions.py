"""Parses submissions to the native API: JSON or forms, batches and webhooks."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeGuard

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.requests import Request

from latentsync.errors import InvalidField, MalformedBody, shorten
from latentsync.jobs.admission import prefix_errors
from latentsync.jobs.disk_space import DiskReserve
from latentsync.jobs.engine_availability import EngineAvailability
from latentsync.jobs.models import Webhook
from latentsync.jobs.service import Submission, fingerprint
from latentsync.schema.fields import Text
from latentsync.schema.predict import PredictRequest, parse_request, unknown_field, validate_fields
from latentsync.schema.run import RunRequest
from latentsync.server.request_body import parse_json_body
from latentsync.server.routes.form import open_form, read_form, take_files, with_placeholders
from latentsync.settings import Settings
from latentsync.workspace import translate_disk_full, working_folder

_URL_CHARACTERS_MAX = 2000
_ALLOWED = 'an http(s) URL, or {"url": …, "events": [succeeded, failed, canceled]}'


class WebhookField(BaseModel):
    """The URL to call, and for which final states."""

    model_config = ConfigDict(extra="forbid")

    url: Annotated[Text, Field(pattern=r"^https?://[^\s/]\S*$", max_length=_URL_CHARACTERS_MAX)] = (
        Field(
            description="Called with a signed POST (Standard Webhooks). Private addresses are "
            "refused."
        )
    )
    events: list[Literal["succeeded", "failed", "canceled"]] = Field(
        default=["succeeded", "failed", "canceled"],
        min_length=1,
        max_length=3,
        description="Final states for which to call it.",
    )


def parse_webhook(value: Any) -> Webhook | None:
    """Parse the field ``webhook``: a URL, an object, or null.

    Raises:
        InvalidField: it is anything else.
    """
    if value is None:
        return None
    try:
        field = WebhookField.model_validate({"url": value} if isinstance(value, str) else value)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False)[0]
        name = ".".join(["webhook", *(str(part) for part in problem["loc"])])
        given = shorten(problem["input"])
        raise InvalidField(f"{name} is {given}. Allowed: {_ALLOWED}.", field="webhook") from None
    return Webhook(field.url, tuple(dict.fromkeys(field.events)))


BATCH_MAX = 100
_KEY_CHARACTERS_MAX = 200
_FIELDS = (*PredictRequest.model_fields, "webhook")


@dataclass(frozen=True)
class _Ids:
    """The client's id, idempotency key and batch entry of a submission."""

    id: str | None
    idempotency_key: str | None
    entry: str | None = None


def idempotency_key(request: Request) -> str | None:
    """Return the Idempotency-Key header, if any; raises InvalidField."""
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
    request: Request,
    settings: Settings,
    reserve: DiskReserve,
    *,
    job_id: str | None = None,
    engines: EngineAvailability | None = None,
) -> AsyncIterator[tuple[list[Submission], bool]]:
    """Parse a body; files of a form exist only inside the block.

    Args:
        request: the request, with an unread body.
        settings: limits.
        reserve: checks the free disk space.
        job_id: client-chosen id of a single prediction.
        engines: if given, a form is refused before its files if its engine cannot run.

    Yields:
        The submissions, and whether the body was a list.

    Raises:
        EngineUnavailable: the engine of a form cannot run.
        DiskFull: there is not enough disk space for the files of a form.
        InvalidRequest: the body is invalid; see also
            :func:`latentsync.server.request_body.parse_json_body`.
    """
    ids = _Ids(job_id, idempotency_key(request))
    content_type = request.headers.get("content-type", "")
    if content_type.split(";")[0].strip().lower() != "multipart/form-data":
        yield await parse_json_body(request, lambda body: _from_json(body, ids))
        return
    with working_folder(reserve.receiving_dir) as folder, translate_disk_full():
        # A retry returns the existing job, whether or not its engine can run now.
        may_be_retry = ids.id is not None or ids.idempotency_key is not None
        now = None
        if engines is not None and not may_be_retry:
            now = await run_in_threadpool(engines.now)
        max_bytes = 2 * settings.max_media_bytes
        async with open_form(request, folder, reserve, max_bytes, now) as form:
            yield [await run_in_threadpool(_from_form, form, folder, settings, ids)], False


def _from_json(body: object, ids: _Ids) -> tuple[list[Submission], bool]:
    entries = body["predictions"] if _is_wrapped_list(body) else body
    if not isinstance(entries, list):
        if entries is not body:
            message = f"predictions is {shorten(entries)}: it must be a list."
            raise InvalidField(message, field="predictions")
        request, webhook = _parse_body(body)
        return [_submission(request, fingerprint({"body": body}), webhook, ids)], False
    if ids.id is not None:
        raise MalformedBody("The body must be a JSON object: the path names one prediction.")
    if not 1 <= len(entries) <= BATCH_MAX:
        raise InvalidField(
            f"predictions has {len(entries)} entries. Allowed: 1 to {BATCH_MAX}.",
            field="predictions",
        )
    return list(_of_batch(entries, ids)), True


def _is_wrapped_list(body: object) -> TypeGuard[dict[str, object]]:
    return isinstance(body, dict) and set(body) == {"predictions"}


def _of_batch(entries: list[object], ids: _Ids) -> Iterator[Submission]:
    """Yield the submissions of a batch.

    Fingerprint and key depend on the whole list and the index, so that only a retry of the same
    list matches. The first entry has the plain key, so that a key used for a batch conflicts with
    a single prediction.
    """
    parsed = [_parse_entry(entry, f"predictions.{n}") for n, entry in enumerate(entries)]
    digest = fingerprint({"predictions": entries})
    for number, (request, webhook) in enumerate(parsed):
        key = ids.idempotency_key
        if key is not None and number > 0:
            key = f"{key}\n{number}"  # cannot collide with a header
        entry_ids = replace(ids, idempotency_key=key, entry=f"predictions.{number}")
        yield _submission(request, digest, webhook, entry_ids)


def _parse_entry(entry: object, name: str) -> tuple[RunRequest, Webhook | None]:
    if not isinstance(entry, dict):
        raise InvalidField(f"{name} is {shorten(entry)}: it must be an object.", field=name)
    with prefix_errors(name):
        return _parse_body(entry)


def _parse_body(body: object) -> tuple[RunRequest, Webhook | None]:
    webhook, fields = _take_webhook(body) if isinstance(body, dict) else (None, body)
    return parse_request(fields), webhook


def _take_webhook(body: dict[str, Any]) -> tuple[Webhook | None, dict[str, Any]]:
    """Split off the field ``webhook``; raises UnknownField, InvalidField."""
    for name in body:
        if name not in _FIELDS:
            raise unknown_field(name, _FIELDS)
    if "webhook" not in body:
        return None, body
    fields = {name: value for name, value in body.items() if name != "webhook"}
    return parse_webhook(body["webhook"]), fields


def _submission(request: RunRequest, digest: str, webhook: Webhook | None, ids: _Ids) -> Submission:
    return Submission(request, digest, ids.id, ids.idempotency_key, webhook, ids.entry)


def _from_form(parts: FormData, folder: Path, settings: Settings, ids: _Ids) -> Submission:
    """Build a submission from a form: options as fields, media as files or URLs."""
    form = read_form(parts)
    webhook, options = _take_webhook(form.fields)
    validate_fields(options)
    request = parse_request(with_placeholders(options, form.files))
    request, hashes = take_files(request, form.files, settings.max_media_bytes)
    digest = fingerprint({"fields": form.fields, "files": hashes})
    return _submission(request, digest, webhook, ids)

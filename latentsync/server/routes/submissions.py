"""What a call to the native API hands in, as JSON or as a form with files, turned into jobs.

The ``webhook`` field: the address to call when a prediction has ended.
"""

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
_ALLOWED = 'an http(s) address, or {"url": …, "events": [succeeded, failed, canceled]}'


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
    """Return the webhook of a request's field: an address, an object, or null for none.

    Raises:
        InvalidField: anything else.
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
class _Names:
    """How a caller names its submission."""

    id: str | None
    idempotency_key: str | None
    entry: str | None = None


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
    request: Request,
    settings: Settings,
    reserve: DiskReserve,
    *,
    job_id: str | None = None,
    engines: EngineAvailability | None = None,
) -> AsyncIterator[tuple[list[Submission], bool]]:
    """Read a call's body; files of a form exist only inside the block.

    Args:
        request: the call, with its body still to come.
        settings: limits and the root of the working folders.
        reserve: what must stay free on the disk.
        job_id: the caller's own id of the one prediction.
        engines: tell which can run; asked before the files of a form are here.

    Yields:
        The submissions, and whether the body was a list of them.

    Raises:
        EngineUnavailable: a form asks for an engine that cannot run.
        DiskFull: there is no room for the files of a form.
        InvalidRequest: and what :func:`latentsync.server.request_body.parse_json_body` raises.
    """
    names = _Names(job_id, idempotency_key(request))
    content_type = request.headers.get("content-type", "")
    if content_type.split(";")[0].strip().lower() != "multipart/form-data":
        yield await parse_json_body(request, lambda body: _from_json(body, names))
        return
    with working_folder(reserve.receiving_dir) as folder, translate_disk_full():
        # A call that may repeat an earlier one gets its job, whatever can run now.
        is_named = names.id is not None or names.idempotency_key is not None
        now = None
        if engines is not None and not is_named:
            now = await run_in_threadpool(engines.now)
        max_bytes = 2 * settings.max_media_bytes
        async with open_form(request, folder, reserve, max_bytes, now) as form:
            yield [await run_in_threadpool(_from_form, form, folder, settings, names)], False


def _from_json(body: object, names: _Names) -> tuple[list[Submission], bool]:
    entries = body["predictions"] if _wraps_list(body) else body
    if not isinstance(entries, list):
        if entries is not body:
            message = f"predictions is {shorten(entries)}: it must be a list."
            raise InvalidField(message, field="predictions")
        request, webhook = _understand(body)
        return [_named(request, fingerprint({"body": body}), webhook, names)], False
    if names.id is not None:
        raise MalformedBody("The body must be a JSON object: the path names one prediction.")
    if not 1 <= len(entries) <= BATCH_MAX:
        raise InvalidField(
            f"predictions has {len(entries)} entries. Allowed: 1 to {BATCH_MAX}.",
            field="predictions",
        )
    return list(_of_batch(entries, names)), True


def _wraps_list(body: object) -> TypeGuard[dict[str, object]]:
    return isinstance(body, dict) and set(body) == {"predictions"}


def _of_batch(entries: list[object], names: _Names) -> Iterator[Submission]:
    """Yield an entry after the other; each is known again only in the same place of the same list.

    The first one has the caller's own key, so that a key is for a list or for a single prediction.
    """
    understood = [_understand_entry(entry, f"predictions.{n}") for n, entry in enumerate(entries)]
    asked = fingerprint({"predictions": entries})
    for number, (request, webhook) in enumerate(understood):
        key = names.idempotency_key
        if key is not None and number > 0:
            key = f"{key}\n{number}"  # which no header can hold
        own = replace(names, idempotency_key=key, entry=f"predictions.{number}")
        yield _named(request, asked, webhook, own)


def _understand_entry(entry: object, name: str) -> tuple[RunRequest, Webhook | None]:
    if not isinstance(entry, dict):
        raise InvalidField(f"{name} is {shorten(entry)}: it must be an object.", field=name)
    with prefix_errors(name):
        return _understand(entry)


def _understand(body: object) -> tuple[RunRequest, Webhook | None]:
    webhook, fields = _take_webhook(body) if isinstance(body, dict) else (None, body)
    return parse_request(fields), webhook


def _take_webhook(body: dict[str, Any]) -> tuple[Webhook | None, dict[str, Any]]:
    """Split off the one field that is no option of the run; raises UnknownField, InvalidField."""
    for name in body:
        if name not in _FIELDS:
            raise unknown_field(name, _FIELDS)
    if "webhook" not in body:
        return None, body
    fields = {name: value for name, value in body.items() if name != "webhook"}
    return parse_webhook(body["webhook"]), fields


def _named(request: RunRequest, asked: str, webhook: Webhook | None, names: _Names) -> Submission:
    return Submission(request, asked, names.id, names.idempotency_key, webhook, names.entry)


def _from_form(parts: FormData, folder: Path, settings: Settings, names: _Names) -> Submission:
    """Turn a form into a submission: options as fields, media as files or as addresses."""
    form = read_form(parts)
    webhook, options = _take_webhook(form.fields)
    validate_fields(options)
    request = parse_request(with_placeholders(options, form.files))
    request, hashes = take_files(request, form.files, settings.max_media_bytes)
    asked = fingerprint({"fields": form.fields, "files": hashes})
    return _named(request, asked, webhook, names)

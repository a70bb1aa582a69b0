"""What a client sends: options, and media as addresses, as base64 or as files of a form."""

from __future__ import annotations

import base64
import json
import os
import stat
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypedDict

from latentsync.errors import InvalidField, shorten
from latentsync.schema import EngineName, SchedulerName, Speaker, SyncMode, validate_fields

Media = Path | str | bytes  # a file, a file name or an http(s) address, or the media itself

_ADDRESSES = ("http://", "https://", "upload://")
_KEY_CHARACTERS_MAX = 200


class Options(TypedDict, total=False):
    """Options of a run; what is left out is decided by the server.

    Attributes:
        guidance_scale: 1.0 to 3.0.
        inference_steps: 1 to 50.
        seed: -1 draws a random one, which the details report.
        sync_mode: what to do when the lengths differ.
        speaker: whose lips move.
        deadline_s: seconds after which the server gives up the run.
        engine: which engine makes the lips; by default the server's.
        scheduler: ``dpm-solver++`` needs fewer steps than ``ddim``, approximately.
        feature_cache_interval: above 1 the network runs whole only every so many steps.
        guidance_interval: start and end, in 0..1, of the steps with guidance.
    """

    guidance_scale: float
    inference_steps: int
    seed: int
    sync_mode: SyncMode | str
    speaker: Speaker | Mapping[str, Any]
    deadline_s: float | None
    engine: EngineName | None
    scheduler: SchedulerName
    feature_cache_interval: int
    guidance_interval: tuple[float, float]


def inline_body(video: Media, audio: Media, options: Options) -> dict[str, Any]:
    """Return contract A's fields; files become base64.

    Raises:
        InvalidField: there is no such file, or a value is not allowed.
        UnknownField: there is no such option.
    """
    return _checked({**_inline("video", video), **_inline("audio", audio), **options})


@contextmanager
def open_submission(
    video: Media, audio: Media, options: Options, webhook_url: str | None
) -> Iterator[dict[str, Any]]:
    """Yield what httpx needs to build the request of a submission, as often as it takes.

    Files are read while they are sent and stay open inside the block.

    Raises:
        InvalidField: there is no such file, or a value is not allowed.
        UnknownField: there is no such option.
    """
    given = {"video": video, "audio": audio}
    addresses = {f"{name}_url": media for name, media in given.items() if _is_address(media)}
    fields = _checked({**addresses, **options})
    if webhook_url is not None:
        fields["webhook"] = webhook_url
    with ExitStack() as opened:
        files: dict[str, BinaryIO | bytes] = {}
        for name, media in given.items():
            if isinstance(media, bytes):
                files[name] = media
            elif not _is_address(media):
                files[name] = opened.enter_context(_open_file(name, media))
        yield _form(fields, files) if files else {"json": fields}


def idempotency_key(given: str | None) -> str:
    """Return the caller's name for a submission, or a new one; raises InvalidField."""
    if given is None:
        return uuid.uuid4().hex
    if not given.isascii() or not given.isprintable() or not 0 < len(given) <= _KEY_CHARACTERS_MAX:
        raise InvalidField(
            f"idempotency_key is {shorten(given)}. Allowed: 1 to {_KEY_CHARACTERS_MAX} printable "
            "ASCII characters.",
            field="idempotency_key",
        )
    return given


def _checked(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields as JSON values.

    Defaults are the server's as well; leaving them out also suits servers of other versions.
    """
    return validate_fields(fields).model_dump(mode="json", exclude_defaults=True)


def _form(fields: Mapping[str, Any], files: Mapping[str, BinaryIO | bytes]) -> dict[str, Any]:
    """Numbers and objects are written as in JSON; files go without their names."""
    texts = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in fields.items()
    }
    parts = {name: (name, file, "application/octet-stream") for name, file in files.items()}
    return {"data": texts, "files": parts}


def _is_address(media: Media) -> bool:
    return isinstance(media, str) and media.startswith(_ADDRESSES)


def _inline(name: str, media: Media) -> dict[str, Any]:
    if _is_address(media):
        return {f"{name}_url": media}
    if not isinstance(media, bytes):
        with _open(name, media) as file:
            media = file.read()
    return {f"{name}_base64": base64.b64encode(media).decode("ascii")}


def _open_file(name: str, path: Path | str) -> BinaryIO:
    """Open what can be sent again: a file with a size, no pipe."""
    file = _open(name, path)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise InvalidField(f"{name} {shorten(str(path))} is not a file.", field=name)
    return file


def _open(name: str, path: Path | str) -> BinaryIO:
    try:
        return Path(path).open("rb")
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        reason = getattr(error, "strerror", None) or "not a usable path"
        raise InvalidField(
            f"{name} {shorten(str(path))} cannot be read: {reason}.", field=name
        ) from error

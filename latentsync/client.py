"""Call a latentsync server, on this machine, on Cerebrium or on Modal::

with Client("https://api.cerebrium.ai/v4/p-xxxxxxxx/latentsync", token) as client:
    prediction = client.predict(video="face.mp4", audio="speech.wav")
prediction.save("out/result.mp4")
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
from pydantic import ValidationError

from latentsync.errors import FetchTimeout, InvalidField, ServerError, Unreachable, shorten
from latentsync.schema import (
    EngineName,
    PredictDetails,
    PredictResponse,
    SchedulerName,
    Speaker,
    SyncMode,
    validate_fields,
)

Media = Path | str | bytes  # a file, a file name or an http(s) address, or the media itself

_CONNECT_TIMEOUT_S = 10.0
# Modal ends a request after 150 s with a 303 to the address of its result, and that one likewise.
_MOST_HANDOVERS = 20


@dataclass(frozen=True)
class Prediction:
    """One finished video.

    Attributes:
        run_id: the server's reference.
        run_time_ms: milliseconds that the server spent on the run.
        details: how the video was made.
        video: the MP4 file's bytes.
    """

    run_id: str
    run_time_ms: float
    details: PredictDetails
    video: bytes = field(repr=False)

    def save(self, path: Path | str) -> Path:
        """Write the MP4 to ``path``, whole or not at all; missing folders are created."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=target.parent, prefix=".saving-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(self.video)
            Path(partial).chmod(0o644)  # mkstemp makes private files
            Path(partial).replace(target)
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            raise
        return target


class Client:
    """Calls contract A. Keeps one connection open; use it as a context manager or call close().

    Args:
        url: address of the server or of the app, with or without ``/predict`` at its end.
        token: bearer token; None for a server that asks for none.
        timeout_s: longest silence of the server, which covers waiting in line and the run itself.

    Raises:
        InvalidField: the address is not http or https, or the token cannot be a header's value.
    """

    def __init__(self, url: str, token: str | None = None, *, timeout_s: float = 900.0) -> None:
        self.url = _predict_url(url)
        self._http = httpx.Client(
            headers=_authorization(token),
            timeout=httpx.Timeout(timeout_s, connect=_CONNECT_TIMEOUT_S),
            trust_env=not _is_loopback(self.url),  # no proxy leads to this machine itself
        )

    def __repr__(self) -> str:
        return f"Client({self.url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def predict(
        self,
        video: Media,
        audio: Media,
        *,
        guidance_scale: float = 1.5,
        inference_steps: int = 20,
        seed: int = 1247,
        sync_mode: SyncMode | str = SyncMode.BOUNCE,
        speaker: Speaker | Mapping[str, Any] = "auto",
        deadline_s: float | None = None,
        engine: EngineName | None = None,
        scheduler: SchedulerName = "ddim",
        feature_cache_interval: int = 1,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
    ) -> Prediction:
        """Make the lips of ``video`` say ``audio``.

        Args:
            video: path, file name, http(s) address that the server fetches, or the file's bytes.
            audio: likewise.
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

        Raises:
            InvalidField: there is no such file, or a value is not allowed.
            ServerError: the server answered with an error, or with something else than a video.
            Unreachable: no connection, or it broke.
            FetchTimeout: the server was silent for longer than the timeout.
        """
        request = validate_fields(
            {
                **_media_field("video", video),
                **_media_field("audio", audio),
                "guidance_scale": guidance_scale,
                "inference_steps": inference_steps,
                "seed": seed,
                "sync_mode": sync_mode,
                "speaker": speaker,
                "deadline_s": deadline_s,
                "engine": engine,
                "scheduler": scheduler,
                "feature_cache_interval": feature_cache_interval,
                "guidance_interval": guidance_interval,
            }
        )
        # Defaults are the server's as well; leaving them out also suits servers of other versions.
        return _read_answer(self._post(request.model_dump(mode="json", exclude_defaults=True)))

    def _post(self, body: dict[str, Any]) -> httpx.Response:
        try:
            response = self._http.post(self.url, json=body)
            for _ in range(_MOST_HANDOVERS):
                if response.status_code != httpx.codes.SEE_OTHER or response.next_request is None:
                    break
                # A GET: no other redirect is followed, for the media must not go elsewhere.
                response = self._http.send(response.next_request)
            return response
        except httpx.ConnectTimeout:
            raise Unreachable(f"{self.url} does not answer.", field="url") from None
        except httpx.TimeoutException:
            raise FetchTimeout(f"{self.url} was silent for too long.", field="url") from None
        except httpx.HTTPError as error:
            raise Unreachable(f"{self.url} cannot be reached: {error}.", field="url") from error


def _predict_url(url: str) -> str:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise InvalidField(f"url is {shorten(url)}: {error}.", field="url") from None
    port_is_one = parsed.port is None or 0 < parsed.port < 65536
    if parsed.scheme not in ("http", "https") or not parsed.host or not port_is_one:
        raise InvalidField(
            f"url is {shorten(url)}. Allowed: an http or https address.", field="url"
        )
    if parsed.userinfo:
        raise InvalidField("url must not hold a name or password. Give the token.", field="url")
    path = parsed.path.rstrip("/")
    return str(parsed.copy_with(path=path if path.endswith("/predict") else f"{path}/predict"))


def _authorization(token: str | None) -> dict[bytes, bytes]:
    stripped = (token or "").strip()  # a token read from a file often ends with a line break
    if not stripped.isprintable():
        raise InvalidField("token holds a line break or another control character.", field="token")
    return {b"Authorization": b"Bearer " + stripped.encode()} if stripped else {}


def _is_loopback(url: str) -> bool:
    host = httpx.URL(url).host
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _media_field(medium: str, media: Media) -> dict[str, str]:
    if isinstance(media, str) and media.startswith(("http://", "https://")):
        return {f"{medium}_url": media}
    if isinstance(media, bytes):
        return {f"{medium}_base64": base64.b64encode(media).decode("ascii")}
    try:
        content = Path(media).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        reason = getattr(error, "strerror", None) or "not a usable path"
        raise InvalidField(
            f"{medium} {shorten(str(media))} cannot be read: {reason}.", field=medium
        ) from error
    return {f"{medium}_base64": base64.b64encode(content).decode("ascii")}


def _read_answer(response: httpx.Response) -> Prediction:
    body = _json_object(response)
    result = body.get("result")
    failure = result if isinstance(result, dict) and _is_error(result) else body
    if not response.is_success or _is_error(failure):
        raise _server_error(response, failure)
    try:
        answer = PredictResponse.model_validate(body)
        video = base64.b64decode(answer.result.video_base64, validate=True)
    except (ValidationError, binascii.Error) as error:
        raise _unexpected(response) from error
    return Prediction(answer.run_id, answer.run_time_ms, answer.result.details, video)


def _json_object(response: httpx.Response) -> Mapping[str, Any]:
    try:
        body = response.json()
    except ValueError:  # HTML of a proxy, nothing at all, bytes
        return {}
    return body if isinstance(body, dict) else {}


def _is_error(body: Mapping[str, Any]) -> bool:
    status = body.get("status_code")
    return isinstance(status, int) and status >= 400


def _server_error(response: httpx.Response, body: Mapping[str, Any]) -> ServerError:
    """Read what can be read from an error body of any shape."""
    status = body["status_code"] if _is_error(body) else response.status_code
    said = body.get("message") or body.get("detail") or body.get("error") or body.get("reason")
    message = said if isinstance(said, str) else f"The server answered with status {status}."
    code, at_fault = body.get("code"), body.get("field")
    return ServerError(
        message,
        server_status=status,
        server_code=code if isinstance(code, str) else "UNKNOWN",
        field=at_fault if isinstance(at_fault, str) else None,
        retry_after_s=_retry_after_s(response),
    )


def _unexpected(response: httpx.Response) -> ServerError:
    return ServerError(
        f"The server answered with status {response.status_code}, but not with a video.",
        server_status=response.status_code,
        server_code="UNEXPECTED_ANSWER",
    )


def _retry_after_s(response: httpx.Response) -> float | None:
    value = response.headers.get("retry-after", "")
    return float(value) if value.isdecimal() else None  # the form with a date is not used here

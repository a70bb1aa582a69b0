"""Cookies of the page, and the client that acts with the key in them."""

from __future__ import annotations

import base64
import binascii
import re
from datetime import timedelta, timezone
from typing import TYPE_CHECKING

from starlette.requests import HTTPConnection

from latentsync.client import AsyncClient

if TYPE_CHECKING:
    import gradio as gr

KEY_COOKIE = "latentsync_key"  # a session cookie that scripts cannot read

_ZONE_COOKIE = "latentsync_zone"  # offset of the browser's clock from UTC in minutes
TELL_ZONE = (
    f"<script>document.cookie = `{_ZONE_COOKIE}=${{-new Date().getTimezoneOffset()}}; "
    "samesite=strict`</script>"
)

_ANSWER_TIMEOUT_S = 60.0


def write_key(key: str) -> str:
    """Return the value of the cookie for a key."""
    return base64.urlsafe_b64encode(key.encode()).decode("ascii")


def read_key(connection: HTTPConnection) -> bytes:
    """Return the key in the cookie; empty if there is none or it is not valid base64."""
    try:
        return base64.b64decode(connection.cookies.get(KEY_COOKIE, ""), b"-_", validate=True)
    except (binascii.Error, ValueError):
        return b""


def zone_of(connection: HTTPConnection) -> timezone:
    """Return the time zone of the browser; UTC without a valid cookie."""
    said = connection.cookies.get(_ZONE_COOKIE, "")
    minutes = int(said) if re.fullmatch(r"-?[0-9]{1,3}", said) else 0
    return timezone(timedelta(minutes=minutes))


def client_of(request: gr.Request) -> AsyncClient:
    """Return a client of this server.

    It connects to the socket address of the request instead of its ``Host``, because there may be
    a reverse proxy in front of the server.
    """
    assert request.request is not None
    host, port = request.request.scope["server"]
    shown = f"[{host}]" if ":" in host else host
    key = read_key(request.request).decode("utf-8", "replace")
    return AsyncClient(f"http://{shown}:{port}", key or None, timeout_s=_ANSWER_TIMEOUT_S)

"""Who looks at the page, and the client that acts for them."""

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

KEY_COOKIE = "latentsync_key"  # lives as long as the browser's session; scripts cannot read it

_ZONE_COOKIE = "latentsync_zone"  # minutes by which the browser's clock is before UTC
TELL_ZONE = (
    f"<script>document.cookie = `{_ZONE_COOKIE}=${{-new Date().getTimezoneOffset()}}; "
    "samesite=strict`</script>"
)

_ANSWER_TIMEOUT_S = 60.0


def write_key(key: str) -> str:
    """Return a key as the cookie's value."""
    return base64.urlsafe_b64encode(key.encode()).decode("ascii")


def read_key(connection: HTTPConnection) -> bytes:
    """Return the visitor's key; empty if the browser sent none, or one that nobody wrote."""
    try:
        return base64.b64decode(connection.cookies.get(KEY_COOKIE, ""), b"-_", validate=True)
    except (binascii.Error, ValueError):
        return b""


def zone_of(connection: HTTPConnection) -> timezone:
    """Return the zone of the browser's clock; UTC if it does not tell."""
    said = connection.cookies.get(_ZONE_COOKIE, "")
    minutes = int(said) if re.fullmatch(r"-?[0-9]{1,3}", said) else 0
    return timezone(timedelta(minutes=minutes))


def client_of(visit: gr.Request) -> AsyncClient:
    """Return a client of the very server that the visitor's browser has reached.

    It calls the address at which the connection arrived, not the one that the browser believes in:
    a proxy may stand between.
    """
    assert visit.request is not None
    host, port = visit.request.scope["server"]
    shown = f"[{host}]" if ":" in host else host
    key = read_key(visit.request).decode("utf-8", "replace")
    return AsyncClient(f"http://{shown}:{port}", key or None, timeout_s=_ANSWER_TIMEOUT_S)

"""Keeps the pages of the API's description from loading anything from other hosts.

Their scripts come from here, but ReDoc's asks a CDN for a logo, which tells it who reads them.
"""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_PAGES = ("/docs", "/redoc")
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self' data:; worker-src 'self' blob:; object-src 'none'"
)


class DocsPolicy:
    """ASGI middleware: adds a content security policy to these pages."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request on; add the header to the answer if it is such a page."""

        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Content-Security-Policy"] = _POLICY
            await send(message)

        is_page = scope["type"] == "http" and _path(scope) in _PAGES
        await self._app(scope, receive, send_with_policy if is_page else send)


def _path(scope: Scope) -> str:
    """Return the path below the one where the application is mounted."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))

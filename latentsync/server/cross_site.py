"""Calls that a web page of somebody else makes through the browser of a user of this server.

Such calls come from the user's machine and carry the user's cookies, so neither a loopback address
nor a cookie keeps them out. Browsers say where they come from in headers that pages cannot change:
``Host`` has the name by which the page calls this server (after DNS rebinding that is the page's
own), ``Origin`` and ``Sec-Fetch-Site`` tell of the page itself. Programs that are no browsers send
neither of the last two, and are not concerned.

Keeps the pages of the API's description from loading anything from other hosts.

Their scripts come from here, but ReDoc's asks a CDN for a logo, which tells it who reads them.
"""

import ipaddress
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from latentsync.errors import ForbiddenHost, ForbiddenOrigin, LatentSyncError, shorten
from latentsync.server.errors import ErrorShape, shape_at
from latentsync.server.request_body import JSON_TYPE_REQUIRED

_HOST = re.compile(
    r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:(?P<port>[0-9]{0,5}))?", re.ASCII | re.IGNORECASE
)
_LOOPBACK_SHOWN = "localhost, names that end with .localhost, 127.0.0.0/8 and [::1], with any port"
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")  # RFC 9110, 9.2.1: they ask for no change
_DEFAULT_PORTS = {"http": 80, "https": 443}
_WEBSOCKET_ANSWER = "websocket.http.response"  # ASGI's extension: an answer instead of a socket
_POLICY_VIOLATION = 1008  # RFC 6455, 7.4.1


class LoopbackGuard:
    """ASGI middleware of a server without a key: answers this machine's programs and own pages.

    Everything passes it, mounted applications and websockets too. A foreign page is refused
    whatever it asks for, since there is no key that it would have to know.

    Args:
        app: the wrapped application; it is told to read nothing as JSON that is not declared so.
        shapes: how errors are told below paths.
    """

    def __init__(self, app: ASGIApp, shapes: Mapping[str, ErrorShape]) -> None:
        self._app = app
        self._shapes = shapes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a call on, or answer it with 403."""
        if scope["type"] != "lifespan":
            try:
                require_loopback_host(scope)
                _require_own_site(scope)
                _require_own_origin(scope)
            except LatentSyncError as error:
                await self._refuse(error, scope, receive, send)
                return
            scope[JSON_TYPE_REQUIRED] = True
        await self._app(scope, receive, send)

    async def _refuse(
        self, error: LatentSyncError, scope: Scope, receive: Receive, send: Send
    ) -> None:
        if scope["type"] == "websocket" and _WEBSOCKET_ANSWER not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": error.code})
            return
        await shape_at(scope["path"], self._shapes)(error, None)(scope, receive, send)


def require_loopback_host(scope: Scope) -> None:
    """Raise ForbiddenHost unless the call has one ``Host``, which names this machine.

    Forwarded names (``X-Forwarded-Host`` and its like) say nothing here: anybody may send them.
    """
    hosts = _values(scope, b"host")
    if len(hosts) == 1 and _is_loopback(hosts[0]):
        return
    given = "is " + shorten(hosts[0]) if len(hosts) == 1 else f"is there {len(hosts)} times"
    raise ForbiddenHost(
        f"The Host header {given}. Allowed without a key: {_LOOPBACK_SHOWN}.", field="Host"
    )


def require_same_origin(connection: HTTPConnection, public_url: str | None = None) -> None:
    """Let no page of somebody else change anything; for what needs no key, or takes it by cookie.

    Where browsers tell ``Sec-Fetch-Site`` it alone decides, for a proxy may have changed ``Host``.
    They leave it out over plain HTTP to other machines; there ``Origin`` is compared.

    Args:
        connection: the call; those that ask for no change pass.
        public_url: an address under which this server is reached, too.

    Raises:
        ForbiddenOrigin: a page of another origin makes the browser call.
    """
    scope = connection.scope
    if scope.get("method") in _SAFE_METHODS:
        return
    _require_own_site(scope)
    if _values(scope, b"sec-fetch-site") != ["same-origin"]:
        _require_own_origin(scope, public_url)


def _require_own_site(scope: Scope) -> None:
    """Raise ForbiddenOrigin if a browser says that it comes from elsewhere.

    A page of another port or subdomain is ``same-site``, and somebody else's like any other.
    """
    for site in _values(scope, b"sec-fetch-site"):
        if site not in ("same-origin", "none"):
            raise ForbiddenOrigin(
                f"The Sec-Fetch-Site header is {shorten(site)}. Allowed: same-origin and none, as "
                "browsers send them for this server's own pages and for addresses that are typed.",
                field="Sec-Fetch-Site",
            )


def _require_own_origin(scope: Scope, public_url: str | None = None) -> None:
    """Raise ForbiddenOrigin if a browser names a page that this server has not sent."""
    hosts = _values(scope, b"host")
    own = [f"{scheme}://{host}" for scheme in _DEFAULT_PORTS for host in hosts]
    if public_url is not None:
        own.append(public_url)
    for origin in _values(scope, b"origin"):
        if _origin_of(origin) is None or _origin_of(origin) not in map(_origin_of, own):
            shown = " and ".join(own[:1] + own[len(_DEFAULT_PORTS) :])
            raise ForbiddenOrigin(
                f"The Origin header is {shorten(origin)}. Allowed: {shown}, or none at all.",
                field="Origin",
            )


def _is_loopback(host: str) -> bool:
    found = _HOST.fullmatch(host)
    if found is None or int(found["port"] or 0) > 65535:
        return False
    name = found["name"].lower()
    try:
        if name.startswith("["):
            address = ipaddress.IPv6Address(name[1:-1])
            return (address.ipv4_mapped or address).is_loopback
        return ipaddress.IPv4Address(name).is_loopback
    except ValueError:
        name = name.removesuffix(".")
        return name == "localhost" or name.endswith(".localhost")


def _origin_of(url: str) -> tuple[str, str, int] | None:
    """Return scheme, name and port of an address (RFC 6454); None if it has no such origin."""
    try:
        parts = urlsplit(url)
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return None
    if not parts.hostname or port is None or "@" in parts.netloc:
        return None
    return parts.scheme, parts.hostname, port


def _values(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for header, value in scope["headers"] if header == name]


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

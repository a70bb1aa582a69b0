"""What every request passes before its route, outermost first.

- :class:`UnreadBodyClose` closes the connection if a request is answered before its body is read.
- :class:`LoopbackGuard` protects a server without keys from web pages of other sites.
- :class:`DocsPolicy` keeps the pages of the API's documentation from loading from other hosts.
- :class:`BodyLimit` bounds the size and time of a body.
- :class:`Authentication` asks for a key, before any of the body is read.
"""

import asyncio
import hmac
import ipaddress
import re
from collections.abc import Collection, Iterable, Mapping
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.routing import Match, Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from latentsync import errors
from latentsync.jobs.service import owner_of
from latentsync.server.errors import ErrorShape, shape_at

JSON_TYPE_REQUIRED = "latentsync.json_type_required"  # in a scope: JSON must be declared as such
ANONYMOUS = "anonymous"  # owns every job of a server that asks for no key
_SCHEME = b"bearer "


class BearerAuth:
    """Finds whose a bearer token is.

    Comparison is over bytes (a header may hold anything) and always looks at every key, so that the
    response time does not depend on how close a guess was.

    Args:
        keys: the valid tokens. Without any, every token is refused.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._owners = [(key.encode(), owner_of(key)) for key in keys if key]

    def owner_of(self, scope: Scope) -> str:
        """Return the owner of a request's token.

        Raises:
            NotAuthorized: the token is unknown, or there is not exactly one Authorization header.
        """
        values = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(values) != 1 or values[0][: len(_SCHEME)].lower() != _SCHEME:
            raise errors.NotAuthorized("Send your key in the header 'Authorization: Bearer <key>'.")
        return self.owner(values[0][len(_SCHEME) :].strip())

    def owner(self, token: bytes) -> str:
        """Return the owner of a token; raises NotAuthorized for an unknown one."""
        owners = [owner for key, owner in self._owners if hmac.compare_digest(token, key)]
        if not owners:
            raise errors.NotAuthorized("The bearer token is not known to this server.")
        return owners[0]


class AccessRules:
    """Which paths need a key, and who the owner of a request is.

    Args:
        auth: knows the keys; None if the server asks for none.
        open_paths: paths that need no key; with every path below them.
        keyless_paths: paths of jobs that need no key and belong to the owner ``anonymous``. They
            refuse web pages of other sites.
        public_url: an address of this server's own pages.
    """

    def __init__(
        self,
        auth: BearerAuth | None,
        open_paths: Collection[str],
        keyless_paths: Collection[str] = (),
        public_url: str | None = None,
    ) -> None:
        self._auth = auth
        self._open_paths = tuple(open_paths)
        self._keyless_paths = tuple(keyless_paths) if auth is not None else ()
        self._public_url = public_url

    def needs_key(self, path: str) -> bool:
        """Return whether a request to this path needs a key."""
        return self._auth is not None and not _is_below(
            path, self._open_paths + self._keyless_paths
        )

    def owner_of(self, scope: Scope) -> str:
        """Return the owner of the jobs that a request is about.

        Raises:
            NotAuthorized: the path needs a key, and the request has none or a wrong one.
            ForbiddenOrigin: the path needs no key, and a web page of another site calls it.
        """
        path = _path(scope)
        if self._auth is not None and self.needs_key(path):
            return self._auth.owner_of(scope)
        if _is_below(path, self._keyless_paths):
            require_same_origin(HTTPConnection(scope), self._public_url)
        return ANONYMOUS


class Authentication:
    """ASGI middleware: sets ``request.state.owner``, or answers 401 without reading the body.

    A request that no route answers passes: the router replies 404 or 405. Mounted applications
    (the page, the files of the documentation) check access themselves or are open.

    Args:
        app: the wrapped application.
        rules: find the owner of a request.
        shapes: formats of errors, by path.
    """

    def __init__(self, app: ASGIApp, rules: AccessRules, shapes: Mapping[str, ErrorShape]) -> None:
        self._app = app
        self._rules = rules
        self._shapes = shapes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with 401."""
        if scope["type"] == "http":
            try:
                scope.setdefault("state", {})["owner"] = self._rules.owner_of(scope)
            except errors.LatentSyncError as error:
                if _has_route(scope):
                    answer = shape_at(scope["path"], self._shapes)(error, None)
                    await answer(scope, receive, send)
                    return
        await self._app(scope, receive, send)


def _has_route(scope: Scope) -> bool:
    return any(
        not isinstance(route, Mount) and route.matches(scope)[0] is Match.FULL
        for route in scope["app"].routes
    )


def _is_below(path: str, beginnings: Iterable[str]) -> bool:
    return any(path == one or path.startswith(f"{one}/") for one in beginnings)


_HOST = re.compile(
    r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:(?P<port>[0-9]{0,5}))?", re.ASCII | re.IGNORECASE
)
_LOOPBACK_SHOWN = "localhost, names that end with .localhost, 127.0.0.0/8 and [::1], with any port"
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")  # RFC 9110, 9.2.1
_DEFAULT_PORTS = {"http": 80, "https": 443}
_WEBSOCKET_ANSWER = (
    "websocket.http.response"  # ASGI extension: refuse a websocket with an HTTP response
)
_POLICY_VIOLATION = 1008  # RFC 6455, 7.4.1


class LoopbackGuard:
    """ASGI middleware of a server without keys: accepts local programs and the server's own pages.

    A web page of another site can make the browser of a local user call this server. Browsers say
    so in headers that pages cannot change: ``Host`` has the name that the page called (after DNS
    rebinding its own), ``Origin`` and ``Sec-Fetch-Site`` name the page. Other programs send neither
    of the last two. Mounted applications and websockets are protected as well.

    Args:
        app: the wrapped application; it reads a body as JSON only if its type says so.
        shapes: formats of errors, by path.
    """

    def __init__(self, app: ASGIApp, shapes: Mapping[str, ErrorShape]) -> None:
        self._app = app
        self._shapes = shapes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with 403."""
        if scope["type"] != "lifespan":
            try:
                require_loopback_host(scope)
                _require_own_site(scope)
                _require_own_origin(scope)
            except errors.LatentSyncError as error:
                await self._refuse(error, scope, receive, send)
                return
            scope[JSON_TYPE_REQUIRED] = True
        await self._app(scope, receive, send)

    async def _refuse(
        self, error: errors.LatentSyncError, scope: Scope, receive: Receive, send: Send
    ) -> None:
        if scope["type"] == "websocket" and _WEBSOCKET_ANSWER not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": error.code})
            return
        await shape_at(scope["path"], self._shapes)(error, None)(scope, receive, send)


def require_loopback_host(scope: Scope) -> None:
    """Raise ForbiddenHost unless the request has one ``Host``, a loopback name.

    ``X-Forwarded-Host`` and the like are ignored: any client may send them.
    """
    hosts = _values(scope, b"host")
    if len(hosts) == 1 and _is_loopback(hosts[0]):
        return
    given = "is " + errors.shorten(hosts[0]) if len(hosts) == 1 else f"is there {len(hosts)} times"
    raise errors.ForbiddenHost(
        f"The Host header {given}. Allowed without a key: {_LOOPBACK_SHOWN}.", field="Host"
    )


def require_same_origin(connection: HTTPConnection, public_url: str | None = None) -> None:
    """Refuse unsafe methods from pages of other origins; for routes without key or with a cookie.

    ``Sec-Fetch-Site`` decides if it is there, since a proxy may have changed ``Host``. Browsers
    leave it out over plain HTTP to other machines; then ``Origin`` is compared.

    Args:
        connection: the request; safe methods pass.
        public_url: another address of this server.

    Raises:
        ForbiddenOrigin: a page of another origin sent the request.
    """
    scope = connection.scope
    if scope.get("method") in _SAFE_METHODS:
        return
    _require_own_site(scope)
    if _values(scope, b"sec-fetch-site") != ["same-origin"]:
        _require_own_origin(scope, public_url)


def _require_own_site(scope: Scope) -> None:
    """Raise ForbiddenOrigin if a browser says that another site sent the request.

    A page of another port or subdomain is ``same-site``, and not trusted either.
    """
    for site in _values(scope, b"sec-fetch-site"):
        if site not in ("same-origin", "none"):
            raise errors.ForbiddenOrigin(
                f"The Sec-Fetch-Site header is {errors.shorten(site)}. Allowed: "
                "same-origin and none, as browsers send them for this server's own pages and for "
                "addresses that are typed.",
                field="Sec-Fetch-Site",
            )


def _require_own_origin(scope: Scope, public_url: str | None = None) -> None:
    """Raise ForbiddenOrigin if ``Origin`` is not this server."""
    hosts = _values(scope, b"host")
    own = [f"{scheme}://{host}" for scheme in _DEFAULT_PORTS for host in hosts]
    if public_url is not None:
        own.append(public_url)
    for origin in _values(scope, b"origin"):
        if _origin_of(origin) is None or _origin_of(origin) not in map(_origin_of, own):
            shown = " and ".join(own[:1] + own[len(_DEFAULT_PORTS) :])
            raise errors.ForbiddenOrigin(
                f"The Origin header is {errors.shorten(origin)}. Allowed: {shown}, or none at all.",
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
    """Return scheme, host and port of a URL (RFC 6454); None if it has no such origin."""
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
    """ASGI middleware: adds a content security policy to the pages of the documentation.

    Their scripts come from this server, but ReDoc would load a logo from a CDN.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and add the header if it is for such a page."""

        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Content-Security-Policy"] = _POLICY
            await send(message)

        is_page = scope["type"] == "http" and _path(scope) in _PAGES
        await self._app(scope, receive, send_with_policy if is_page else send)


def _path(scope: Scope) -> str:
    """Return the path relative to the mount point of the application."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


class BodyLimit:
    """ASGI middleware: raises in the reader of a body that is too large or too slow.

    A request that is refused before its body is read, for a wrong key, costs nothing.

    Args:
        app: the wrapped application.
        max_bytes: largest JSON body, declared and received; it is held in memory.
        max_streamed_bytes: largest body of any other type; such bodies go to the disk.
        timeout_s: longest time from the first read to the end of the body.
        streamed_paths: where bodies of any type go to the disk.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_bytes: int,
        max_streamed_bytes: int,
        timeout_s: float,
        streamed_paths: Collection[str] = (),
    ) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._max_streamed_bytes = max_streamed_bytes
        self._timeout_s = timeout_s
        self._streamed_paths = streamed_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with a limited ``receive``."""
        if scope["type"] == "http":
            receive = _GuardedBody(scope, receive, self._limit_of(scope), self._timeout_s)
        await self._app(scope, receive, send)

    def _limit_of(self, scope: Scope) -> int:
        in_memory = is_json(Headers(scope=scope).get("content-type"))
        if in_memory and scope["path"] not in self._streamed_paths:
            return self._max_bytes
        return self._max_streamed_bytes


class _GuardedBody:
    """The ``receive`` of one request; without limits once the body has ended."""

    def __init__(self, scope: Scope, receive: Receive, max_bytes: int, timeout_s: float) -> None:
        self._declared_bytes = declared_bytes(scope)
        self._receive = receive
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._deadline: float | None = None
        self._received_bytes = 0
        self._complete = False

    async def __call__(self) -> Message:
        if self._complete:
            return await self._receive()
        self._check(self._declared_bytes)
        message = await self._receive_in_time()
        self._received_bytes += len(message.get("body", b""))
        self._check(self._received_bytes)
        self._complete = not message.get("more_body", False)
        return message

    async def _receive_in_time(self) -> Message:
        if self._deadline is None:
            self._deadline = asyncio.get_running_loop().time() + self._timeout_s
        try:
            async with asyncio.timeout_at(self._deadline):
                return await self._receive()
        except TimeoutError:
            raise errors.FetchTimeout(
                f"The request body did not arrive within {self._timeout_s:g} s."
            ) from None

    def _check(self, size_bytes: int) -> None:
        if size_bytes > self._max_bytes:
            raise errors.TooManyBytes(f"The request body is larger than {self._max_bytes} bytes.")


_LINGER_S = 2.0


class UnreadBodyClose:
    """ASGI middleware: closes the connection if the response starts before the body was read.

    The server would otherwise receive and discard whatever a refused client sends, without end. The
    connection stays open for a moment: a client that is still sending might miss the response. This
    must be the outermost middleware, to see every message.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; track its body, if it has one."""
        if scope["type"] == "http" and _has_body(scope):
            exchange = _Exchange(receive, send)
            receive, send = exchange.receive, exchange.send
        await self._app(scope, receive, send)


class _Exchange:
    """One request with a body, and its response."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._is_read = False
        self._closes = False

    async def receive(self) -> Message:
        """Receive a message, and note the end of the body."""
        message = await self._receive()
        self._is_read = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """Send a message; before the last one, receive the rest of the body for a moment."""
        if message["type"] == "http.response.start":
            self._closes = not self._is_read
            if self._closes:
                message["headers"] = [*message["headers"], (b"connection", b"close")]
            await self._send(message)
        elif not self._closes or message.get("more_body", False):
            await self._send(message)
        else:
            await self._send({**message, "more_body": True})
            await self._linger()
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _linger(self) -> None:
        try:
            async with asyncio.timeout(_LINGER_S):
                while not self._is_read:
                    await self.receive()
        except TimeoutError:
            return


def _has_body(scope: Scope) -> bool:
    headers = dict(scope["headers"])
    return b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"


def declared_bytes(scope: Scope) -> int:
    """Return the Content-Length of a request; 0 if it declares none."""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0  # chunked


def is_json(content_type: str | None) -> bool:
    """Return whether a body is declared as JSON; a missing Content-Type counts as JSON."""
    if content_type is None:
        return True
    kind = content_type.split(";")[0].strip().lower()
    return kind == "application/json" or kind.endswith("+json")

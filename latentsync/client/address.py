"""Where a server is, and the token that it wants."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Any

import httpx

from latentsync.errors import InvalidField, shorten

CONNECT_TIMEOUT_S = 10.0
_KEPT_OPEN = 20  # connections that nobody uses at the moment
_PREDICT = "/predict"


@dataclass(frozen=True)
class Address:
    """A server's address.

    Attributes:
        base: without ``/predict`` and without a slash at its end.
    """

    base: str

    @property
    def predict(self) -> str:
        """Where contract A is answered."""
        return self.base + _PREDICT

    @property
    def predictions(self) -> str:
        """Where the native API takes jobs."""
        return f"{self.base}/v1/predictions"

    def own_url(self, told: str | None, otherwise: str) -> str:
        """Return where to go with the token for what the server told the address of.

        Args:
            told: an absolute address, or a path on the server.
            otherwise: taken if there is none, or if it does not lie below this address: the token
                is for nobody else, and a server may call itself by a name, or leave out a proxy's
                prefix, by which it cannot be reached from here.
        """
        if told is None:
            return otherwise
        if told.startswith("/") and not told.startswith("//"):
            return self.base + told
        try:
            url = httpx.URL(told)
        except httpx.InvalidURL:
            return otherwise
        own = httpx.URL(self.base)
        is_below = url.path.startswith(own.path.rstrip("/") + "/")
        return told if is_below and _origin(url) == _origin(own) else otherwise

    @property
    def is_this_machine(self) -> bool:
        """Whether it is a loopback address, to which no proxy leads."""
        host = httpx.URL(self.base).host
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"


def parse_address(url: str) -> Address:
    """Read an address with or without ``/predict`` at its end; raises InvalidField."""
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
    path = parsed.path.rstrip("/").removesuffix(_PREDICT)
    return Address(str(parsed.copy_with(path=path or "/", query=None, fragment=None)).rstrip("/"))


def http_options(address: Address, token: str | None, timeout_s: float) -> dict[str, Any]:
    """Return what httpx needs to know of a server; raises InvalidField for a wrong token."""
    return {
        "headers": _authorization(token),
        "timeout": httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S),
        # Whoever waits holds a connection: any number may wait.
        "limits": httpx.Limits(max_connections=None, max_keepalive_connections=_KEPT_OPEN),
        "trust_env": not address.is_this_machine,  # no proxy leads to oneself
    }


def _origin(url: httpx.URL) -> tuple[str, str, int | None, bytes]:
    """Return what must be the same of two addresses of one server (RFC 6454), and any user name."""
    port = url.port or {"http": 80, "https": 443}.get(url.scheme)
    return url.scheme, url.host, port, url.userinfo


def _authorization(token: str | None) -> dict[bytes, bytes]:
    stripped = (token or "").strip()  # a token read from a file often ends with a line break
    if not stripped.isprintable():
        raise InvalidField("token holds a line break or another control character.", field="token")
    return {b"Authorization": b"Bearer " + stripped.encode()} if stripped else {}

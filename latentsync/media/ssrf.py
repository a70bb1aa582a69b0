"""Protection against server-side request forgery, for addresses in requests.

Every host is checked before a request is sent to it. httpx-secure checks again and pins the
connection to the checked address, which prevents DNS rebinding. Proxies of the environment are not
used, because they would bypass the pinning.
"""

import asyncio
import socket
import ssl
from functools import cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

import httpx
from httpx_secure import httpx_ssrf_protection

from latentsync.settings import Settings

_PUBLIC_IPV6 = IPv6Network("2000::/3")  # all global unicast that IANA has allocated
_NAT64 = IPv6Network("64:ff9b::/96")
_PROTOCOLS = IPv4Network("192.0.0.0/24")  # reserved by RFC 6890; cloud platforms use it
_HEADERS = {"User-Agent": "latentsync", "Accept-Encoding": "identity"}


def open_guarded_client(settings: Settings, *, timeout_s: float) -> httpx.AsyncClient:
    """Return a client that connects to public addresses only and follows no redirects.

    With ``settings.allow_private_addresses`` it connects anywhere. A refused address raises
    httpx-secure's SSRFProtectionError.
    """
    client = httpx.AsyncClient(
        trust_env=False,
        follow_redirects=False,
        headers=_HEADERS,
        timeout=timeout_s,
        verify=_trusted_roots(),
    )
    if settings.allow_private_addresses:
        return client
    return httpx_ssrf_protection(
        client, custom_validator=lambda _host, address, _port: is_public(address)
    )


def parse_address(text: str) -> httpx.URL:
    """Return a valid http(s) address; raises ValueError with the reason otherwise."""
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise ValueError(reason_of(error)) from None
    if url.scheme not in ("http", "https"):
        raise ValueError("only http and https are allowed")
    if not url.host:
        raise ValueError("it names no host")
    if url.port is not None and not 0 < url.port < 65_536:
        raise ValueError("its port is not between 1 and 65535")
    if url.userinfo:
        raise ValueError("a user name or password in it is not allowed")
    return url


async def leads_to_public(url: httpx.URL, settings: Settings) -> bool:
    """Return whether every address of the host is public, or private ones are allowed.

    Raises:
        OSError, UnicodeError: the host cannot be resolved.
    """
    port = url.port or (443 if url.scheme == "https" else 80)
    found = await asyncio.get_running_loop().getaddrinfo(url.host, port, type=socket.SOCK_STREAM)
    if settings.allow_private_addresses:
        return True
    return all(is_public(ip_address(str(entry[4][0]).split("%")[0])) for entry in found)


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Return whether an address is public, including IPv4 addresses embedded in IPv6."""
    if isinstance(address, IPv4Address):
        return address.is_global and not address.is_multicast and address not in _PROTOCOLS
    embedded = _embedded_address(address)
    if embedded is not None:
        return is_public(embedded)
    return address.is_global and address in _PUBLIC_IPV6


def reason_of(error: Exception) -> str:
    """Return an error's message without its final stop, or its type if there is none."""
    words = str(error).strip().rstrip(".") or type(error).__name__
    return words[:1].lower() + words[1:]


@cache
def _trusted_roots() -> ssl.SSLContext:
    """Load the certificates once per process; it takes longer than many downloads."""
    return httpx.create_ssl_context(trust_env=False)


def _embedded_address(address: IPv6Address) -> IPv4Address | None:
    """Return the IPv4 address embedded in ``address``, if there is one."""
    if address in _NAT64:
        return IPv4Address(address.packed[-4:])
    if address.teredo is not None:
        return address.teredo[1]
    return address.ipv4_mapped or address.sixtofour

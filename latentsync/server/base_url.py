"""The address under which a caller knows this server; addresses in answers begin with it."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.requests import Request


def base_url_of(request: Request, public_url: str | None) -> str:
    """Return the server's address without a slash at its end.

    Args:
        request: the call; what it called counts where nothing else is set.
        public_url: the setting, which a server behind a proxy with a path prefix needs.
    """
    return (public_url or str(request.base_url)).rstrip("/")


def path_of(base_url: str) -> str:
    """Return the path prefix of a server's address, empty if it has none."""
    return urlsplit(base_url).path.rstrip("/")

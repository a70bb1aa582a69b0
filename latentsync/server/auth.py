"""Bearer tokens: who may call."""

from __future__ import annotations

import hmac
from collections.abc import Iterable

from fastapi.security import HTTPBearer
from starlette.requests import HTTPConnection

from latentsync.errors import NotAuthorized

_SCHEME = b"bearer "


class BearerAuth(HTTPBearer):
    """Lets a request pass whose token is one of ``keys``; without keys nobody passes.

    Used as a FastAPI dependency, which runs before the body is read. Comparison is over bytes (a
    header may hold anything) and always looks at every key, so that the time an answer takes says
    nothing about how close a guess was.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        super().__init__(scheme_name="bearer", description="one of LATENTSYNC_API_KEYS")
        self._keys = [key.encode() for key in keys if key]

    async def __call__(self, request: HTTPConnection) -> None:
        """Raise NotAuthorized unless the request carries a known token."""
        token = _token(request)
        matches = [hmac.compare_digest(token, key) for key in self._keys]
        if not any(matches):
            raise NotAuthorized("The bearer token is not known to this server.")


def _token(request: HTTPConnection) -> bytes:
    """Return the raw token bytes; exactly one Authorization header must carry them."""
    values = [value for name, value in request.scope["headers"] if name == b"authorization"]
    if len(values) != 1 or values[0][: len(_SCHEME)].lower() != _SCHEME:
        raise NotAuthorized("Send your key in the header 'Authorization: Bearer <key>'.")
    token: bytes = values[0][len(_SCHEME) :].strip()
    return token

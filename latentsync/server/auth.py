"""Bearer tokens: who may call, and whose jobs a call is about."""

import hmac
from collections.abc import Iterable

from fastapi.security import HTTPBearer
from starlette.requests import HTTPConnection

from latentsync.errors import NotAuthorized
from latentsync.jobs.service import owner_of

ANONYMOUS = "anonymous"  # owns every job of a server that asks for no key
_SCHEME = b"bearer "


class BearerAuth(HTTPBearer):
    """Lets a request pass whose token is one of ``keys``; without keys nobody passes.

    The dependency's value is the owner of what the request submits or asks for.
    Used as a FastAPI dependency, which runs before the body is read. Comparison is over bytes (a
    header may hold anything) and always looks at every key, so that the time an answer takes says
    nothing about how close a guess was.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        super().__init__(scheme_name="bearer", description="A key of this server.")
        self._owners = [(key.encode(), owner_of(key)) for key in keys if key]

    async def __call__(self, request: HTTPConnection) -> str:  # type: ignore[override]
        """Return the owner that the token stands for; raises NotAuthorized for any other."""
        return self.owner(_token(request))

    def owner(self, token: bytes) -> str:
        """Return the owner that the token stands for; raises NotAuthorized for any other."""
        owners = [owner for key, owner in self._owners if hmac.compare_digest(token, key)]
        if not owners:
            raise NotAuthorized("The bearer token is not known to this server.")
        return owners[0]


async def anonymous() -> str:
    """Stand for the owner where no key is asked for."""
    return ANONYMOUS


def _token(request: HTTPConnection) -> bytes:
    """Return the raw token bytes; exactly one Authorization header must carry them."""
    values = [value for name, value in request.scope["headers"] if name == b"authorization"]
    if len(values) != 1 or values[0][: len(_SCHEME)].lower() != _SCHEME:
        raise NotAuthorized("Send your key in the header 'Authorization: Bearer <key>'.")
    token: bytes = values[0][len(_SCHEME) :].strip()
    return token

"""Asks a hub where a file's bytes are; the only place that knows huggingface_hub.

The hub's own client resolves the file: revision, token, redirects, and the sha256 that the hub
states. The bytes are read by :mod:`latentsync.weights.download`, because ``hf_hub_download`` (2.4)
throws a partial file away when a connection is reset, the process ends or the retries are used up,
so 5 GB begin anew; and it cannot be canceled. Plain HTTP is spoken by mirrors as well, unlike Xet.
Its telemetry is off: to say who asks, it would ask huggingface.co for a list of programs first,
with a mirror as well.

Why a file does not come: what may pass by itself, what will not, and what to do about it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urljoin, urlsplit

from latentsync.errors import EngineUnavailable
from latentsync.settings import Settings
from latentsync.weights.catalog import HubFile
from latentsync.weights.paths import endpoint, hub_address

_PASSING = {408, 425, 429}  # and every 5xx
_REASONS = {
    401: "it asks for permission (401); set HF_TOKEN to a token that may read it",
    403: "it refuses (403); accept the licence on the repository's page and set HF_TOKEN",
    404: "there is no such file (404)",
    429: "it is asked too often (429)",
}


class Fault(Exception):
    """One attempt failed; never leaves this package.

    Args:
        reason: half a sentence, safe to send.
        transient: whether another attempt may succeed.
        asked_s: seconds after which the sender asks to come again.
    """

    def __init__(self, reason: str, *, transient: bool, asked_s: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.transient = transient
        self.asked_s = asked_s


def fault_of_status(status: int, headers: Mapping[str, str]) -> Fault:
    """Return the fault behind an HTTP status that is no success."""
    asked = headers.get("Retry-After", "")
    return Fault(
        _REASONS.get(status, f"the answer was {status}"),
        transient=status in _PASSING or status >= 500,
        asked_s=float(asked) if asked.isascii() and asked.isdigit() else None,
    )


_ANSWER_S = 10.0  # longest wait for a file's address
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Origin:
    """An address of bytes, and what is known of them beforehand.

    Attributes:
        url: where to read; may be signed and short-lived.
        identity: equal for equal content; a part is continued only from its own identity.
        headers: to send along.
        size_bytes: of the whole file, if stated.
        sha256: of the whole file, if stated.
    """

    url: str
    identity: str
    headers: dict[str, str] = field(default_factory=dict)
    size_bytes: int | None = None
    sha256: str | None = None


def find_on_hub(file: HubFile, settings: Settings) -> Origin:
    """Ask the hub for a file; blocks up to 10 s.

    Raises:
        Fault: no answer, or a refusal.
        EngineUnavailable: huggingface_hub is not installed.
    """
    address = hub_address(file, settings)
    _require_web_address(address)
    try:
        import httpx2  # what huggingface_hub speaks HTTP with
        from huggingface_hub import constants, get_hf_file_metadata
    except ModuleNotFoundError as error:
        raise EngineUnavailable(
            f"Fetching weights needs {error.name}: pip install -e '.[models]'."
        ) from error
    # The variable of that name is read at the first import, which may have been diffusers' or
    # gradio's.
    constants.HF_HUB_DISABLE_TELEMETRY = True
    try:
        found = get_hf_file_metadata(address, timeout=_ANSWER_S, endpoint=endpoint(settings))
    except httpx2.HTTPError as error:
        answer = getattr(error, "response", None)
        if answer is None:
            raise Fault(f"no answer ({_words(error)})", transient=True) from error
        raise fault_of_status(answer.status_code, answer.headers) from error
    except (OSError, httpx2.InvalidURL) as error:  # its own offline mode; an address it refuses
        raise Fault(_words(error), transient=False) from error
    sha256 = found.etag if found.etag and _SHA256.fullmatch(found.etag) else None
    url = urljoin(address, found.location)
    return Origin(
        url=url,
        identity=f"{file.repository} {found.etag or address}",
        headers=_token_for(url, address),
        size_bytes=found.size,
        sha256=sha256,
    )


def _require_web_address(address: str) -> None:
    """Refuse what HF_ENDPOINT may hold; huggingface_hub cannot even be imported with some of it."""
    try:
        parts = urlsplit(address)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        valid = False
    if not valid:
        raise Fault("this is no http address", transient=False)


def _token_for(url: str, address: str) -> dict[str, str]:
    """Return the token's header for the hub itself; the stores it redirects to never see it."""
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # documented

    token = build_hf_headers().get("authorization")
    same = urlsplit(url)[:2] == urlsplit(address)[:2]
    return {"Authorization": token} if token and same else {}


def _words(error: Exception) -> str:
    """Return an error's own first line; its type where it has none."""
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__

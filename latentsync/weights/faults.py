"""Why a file does not come: what may pass by itself, what will not, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping

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

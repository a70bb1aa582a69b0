"""The environment's variables: those that mean something here, and those misspelt."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping

from latentsync.settings import KEY_VARIABLE, KEYS_VARIABLE, PREFIX, Settings, variable_of

URL_VARIABLE = "LATENTSYNC_URL"  # of the server that a caller means
# Where callers may have put their key; the first that is set counts.
CALLER_KEY_VARIABLES = (KEY_VARIABLE, "LATENTSYNC_TOKEN", "CEREBRIUM_API_KEY")

_SETTINGS = frozenset(map(variable_of, Settings.model_fields))
_READ_BY_TESTS = {"LATENTSYNC_REFERENCE", "LATENTSYNC_FUZZ_CASES"}
_KNOWN = _SETTINGS | {URL_VARIABLE, KEYS_VARIABLE, *CALLER_KEY_VARIABLES} | _READ_BY_TESTS
_NEAR = 0.6  # least likeness of a name that is suggested: difflib's own default

# Kubernetes and container links tell every container of a service named latentsync… by these.
_OF_A_SERVICE = re.compile(
    r"LATENTSYNC(_\w+)?_(SERVICE_(HOST|PORT(_\w+)?)|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_ADDRESS_OF_A_SERVICE = re.compile(r"(tcp|udp|sctp)://")


def describe_unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Return a sentence for each variable that looks like a setting and is none."""
    return [
        _describe(name)
        for name, value in sorted(environment.items())
        if name.upper().startswith(PREFIX)
        and name.upper() not in _KNOWN
        and not _is_of_a_service(name.upper(), value)
    ]


def caller_key(environment: Mapping[str, str]) -> tuple[str, str]:
    """Return a caller's key and the variable that it is in; two empty texts if there is none.

    Where a server's variable with several keys is at hand, its first one will do.
    """
    for name in CALLER_KEY_VARIABLES:
        given = environment.get(name, "").strip()
        if name == KEY_VARIABLE:
            given = next((key for part in given.split(",") if (key := part.strip())), "")
        if given:
            return given, name
    return "", ""


def _describe(name: str) -> str:
    suggestable = {known.removeprefix(PREFIX): known for known in (*_SETTINGS, URL_VARIABLE)}
    near = difflib.get_close_matches(name.upper().removeprefix(PREFIX), suggestable, 1, _NEAR)
    advice = f"; did you mean {suggestable[near[0]]}?" if near else "."
    return f"{name} is not a setting of latentsync and has no effect{advice}"


def _is_of_a_service(name: str, value: str) -> bool:
    if _OF_A_SERVICE.fullmatch(name):
        return True
    return name.endswith("_PORT") and _ADDRESS_OF_A_SERVICE.match(value) is not None

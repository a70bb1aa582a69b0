"""Write errors.md from the error classes: run ``python docs/make_errors.py`` after a change."""

from __future__ import annotations

import re
from pathlib import Path

from latentsync import errors

PAGE = Path(__file__).with_name("errors.md")

_IN_TREE = re.compile(r"^ +[│ ]*[├└]── (\w+)(?: \d{3})? {2,}(.+)$", re.MULTILINE)
_HEAD = """\
# Errors

Every error has a stable code for programs, a message for people that names the field and the
value, and an HTTP status. `docs/make_errors.py` generates this page.

- `/v1` answers problem details (RFC 9457): `type` is `urn:latentsync:error:` followed by the code
  in lower case with hyphens, `detail` is the message, and `code`, `field` and `run_id` are added. A
  failed prediction has `code`, `message` and `field` in its `error`.
- `POST /predict` answers `status_code`, `code`, `message`, `field` and `run_id`.
- `/sync`, `/task`, `/queue` and `/outputs` answer the same, with the message again as `detail`.
- `/lipsync` and `/static/results` answer `status` (always `Failed`), `reason` and `code`, and use
  422 instead of 400 for `BODY_MALFORMED`.

| code | status | what it means |
|---|---|---|
"""


def render() -> str:
    """Return the page."""
    assert errors.__doc__ is not None
    meanings = dict(_IN_TREE.findall(errors.__doc__))
    rows = (
        f"| `{code}` | {kind.status} | {meanings[kind.__name__]} |\n"
        for code, kind in errors.every_error().items()
    )
    return _HEAD + "".join(rows)


if __name__ == "__main__":
    PAGE.write_text(render(), "utf-8")

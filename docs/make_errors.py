"""Write ERRORS.md from the tree of errors: ``python docs/make_errors.py`` after a change there."""

from __future__ import annotations

import re
from pathlib import Path

from latentsync import errors

PAGE = Path(__file__).with_name("ERRORS.md")

_IN_TREE = re.compile(r"^ +[│ ]*[├└]── (\w+)(?: \d{3})? {2,}(.+)$", re.MULTILINE)
_HEAD = """\
# Errors

Every error has a stable code for programs, a sentence for people that names the field and the
value, and an HTTP status. Made from `latentsync/errors.py` by `docs/make_errors.py`.

The native API (`/v1`) answers problem details (RFC 9457): `type` is `urn:latentsync:error:` and the
code in small letters with hyphens, `detail` is the sentence, and `code`, `field` and `run_id` are
added. `POST /predict` answers `status_code`, `code`, `message`, `field` and `run_id`; `/sync`,
`/task`, `/queue` and `/outputs` add `detail`, the sentence again. `/lipsync` and `/static/results`
answer `status` (always `Failed`), `reason` and `code`, and 422 for `BODY_MALFORMED`, too. A
prediction that failed carries `code`, `message` and `field` in its `error`.

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

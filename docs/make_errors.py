"""Write errors.md: run ``python docs/make_errors.py`` after a change of errors or warnings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from latentsync import errors
from latentsync.schema.responses import WarningCode

PAGE = Path(__file__).with_name("errors.md")

_IN_TREE = re.compile(r"^ +[│ ]*[├└]── (\w+)(?: \d{3})? {2,}(.+)$", re.MULTILINE)
_HEAD = """\
# Errors and warnings

`docs/make_errors.py` generates this page.

## Errors

Every error has a stable code for programs, a message for people that names the field and the
value, and an HTTP status.

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
_WARNINGS_HEAD = """
## Warnings

A run that succeeded may still have met something that was not as asked or not as usual. It says so
in `warnings` of its `details`: a list, mostly empty, of objects with a stable `code` and a
`message` for people that names the request field. The command line, the page and the log of the
run show the messages. Later versions may add codes, so show the message of a code that you do not
know.

| code | what was done | what you may do |
|---|---|---|
"""
# What was done, and what the caller may do about it.
WARNINGS = {
    WarningCode.ALPHA_COMPOSITED: (
        "the video is transparent in places, which an MP4 cannot be; it was put on black",
        "put it on a background of your choice before you send it",
    ),
    WarningCode.CHANNEL_CHOSEN: (
        "the lips follow some of the channels, or the difference of two, because the sum of "
        "all channels would have lost it; what is heard keeps its channels",
        "nothing if the lips fit; otherwise send the speaker's channel alone, as mono",
    ),
    WarningCode.CHANNELS_MIXED: (
        "the sound has more channels than the MP4 can have; they were mixed to stereo",
        "send mono, stereo, 5.1 or 7.1 for a mix of your own",
    ),
    WarningCode.CLOCK_MENDED: (
        "timestamps jump or start anew; the gap was closed or held, with picture and sound in step",
        "look at the result where the recording was joined; remux or record again if a part is "
        "missing",
    ),
    WarningCode.DEINTERLACED: (
        "the video is interlaced; its fields became whole frames",
        "nothing; a deinterlacer of your own may keep finer detail",
    ),
    WarningCode.FRAME_SIZE_CHANGED: (
        "frames change their size within the video; they were fitted into the size of the first",
        "nothing if the result looks right; otherwise send frames of one size",
    ),
    WarningCode.FRAMES_WITHOUT_FACE: (
        "the speaker's face was missing, turned away or covered in some frames, in which the lips "
        "are as they were; `frames_without_face` is their number",
        "choose the speaker with `speaker`, or a part of the video that shows the face",
    ),
    WarningCode.SIZE_ROUNDED: (
        "width or height is odd, which H.264 does not allow; the last column or row was repeated",
        "send even sides if one pixel matters",
    ),
    WarningCode.STREAM_CHOSEN: (
        "the file has several video or audio streams; the message says which one was used",
        "if it is the wrong one, send a file with that stream alone",
    ),
    WarningCode.TONE_MAPPED: (
        "the video is HDR (PQ or HLG); it was converted to standard range (BT.709)",
        "grade it yourself and send SDR if the colours matter",
    ),
}


def render() -> str:
    """Return the page."""
    return _HEAD + "".join(_error_rows()) + _WARNINGS_HEAD + "".join(_warning_rows())


def _error_rows() -> Iterator[str]:
    assert errors.__doc__ is not None
    meanings = dict(_IN_TREE.findall(errors.__doc__))
    for code, kind in errors.every_error().items():
        yield f"| `{code}` | {kind.status} | {meanings[kind.__name__]} |\n"


def _warning_rows() -> Iterator[str]:
    for code in WarningCode:
        done, advice = WARNINGS[code]
        yield f"| `{code}` | {done} | {advice} |\n"


if __name__ == "__main__":
    PAGE.write_text(render(), "utf-8")

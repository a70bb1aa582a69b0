"""Media as a caller names them, and as they are sent."""

from __future__ import annotations

import base64
import os
import stat
from pathlib import Path
from typing import BinaryIO

from latentsync.errors import InvalidField, shorten

Media = Path | str | bytes  # a file, a file name or an http(s) address, or the media itself

_ADDRESSES = ("http://", "https://", "upload://")


def as_address(name: str, media: Media) -> dict[str, str]:
    """Return ``{"url": …}`` for an address, nothing for what goes as a file of its own."""
    return {"url": media} if isinstance(media, str) and media.startswith(_ADDRESSES) else {}


def as_text(name: str, media: Media) -> dict[str, str]:
    """Return ``{"url": …}`` for an address, ``{"base64": …}`` for anything else.

    Raises:
        InvalidField: there is no such file.
    """
    address = as_address(name, media)
    if address:
        return address
    if not isinstance(media, bytes):
        with _open(name, media) as file:
            media = file.read()
    return {"base64": base64.b64encode(media).decode("ascii")}


def open_file(name: str, path: Path | str) -> BinaryIO:
    """Open what can be sent again: a file with a size, no pipe.

    Raises:
        InvalidField: there is no such file.
    """
    file = _open(name, path)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise InvalidField(f"{name} {shorten(str(path))} is not a file.", field=name)
    return file


def _open(name: str, path: Path | str) -> BinaryIO:
    try:
        return Path(path).open("rb")
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        reason = getattr(error, "strerror", None) or "not a usable path"
        raise InvalidField(
            f"{name} {shorten(str(path))} cannot be read: {reason}.", field=name
        ) from error

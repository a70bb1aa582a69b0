"""One ``.npz`` file: its arrays, and which of them a check has looked at."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
NUMBERS = ("float64", "float32", "int")  # a setting that may be whole

# What numpy raises over a file that is damaged, or that would have to be run to be read.
_DAMAGE = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)


class UnfitArray(Exception):
    """A recorded array is missing, unreadable, not finite or of another type than it must be."""


class RecordedFile:
    """Holds the arrays that could be read, and why the others could not.

    Args:
        path: the ``.npz`` file.
        title: what the file is called in the report.

    Raises:
        UnfitArray: it is no such file.
    """

    def __init__(self, path: Path, title: str) -> None:
        self.title = title
        self.looked_at: set[str] = set()
        self._arrays: dict[str, Array | UnfitArray] = {}
        try:
            with path.open("rb") as stream, np.load(stream) as file:
                self.names = list(file.files)
                for name in self.names:
                    self._arrays[name] = _read_member(file, name)
        except (*_DAMAGE, AttributeError) as error:  # a single array has no list of files
            raise UnfitArray(f"is no .npz file ({error})") from error

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def numbered(self, pattern: str) -> Iterator[re.Match[str]]:
        """Yield how ``pattern`` matches the names it fits as a whole, in the file's order."""
        for name in self.names:
            if match := re.fullmatch(pattern, name):
                yield match

    def cases(self, *families: str) -> list[str]:
        """Return the endings that follow one of ``families`` in any name, in the file's order.

        Several families are one case's arrays: a case counts even if some of them are missing.
        """
        found = (match[1] for match in self.numbered(rf"(?:{'|'.join(families)})(\d+)"))
        return list(dict.fromkeys(found))

    def read(self, name: str, *dtypes: str) -> Array:
        """Return an array that is one of ``dtypes``; ``"int"`` stands for all integers but uint8.

        Raises:
            UnfitArray: it is missing, unreadable, of another type, or holds values not finite.
        """
        array = self._load(name)
        kind = "int" if array.dtype.kind in "iu" and array.itemsize > 1 else array.dtype.name
        kind = "str" if array.dtype.kind == "U" else kind
        if kind not in dtypes:
            raise UnfitArray(f"{name} is {array.dtype.name}, not {' or '.join(dtypes)}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise UnfitArray(f"{name} holds values that are not finite")
        return array

    def read_number(self, name: str, *dtypes: str) -> Any:
        """Return the one value of ``name`` as a Python number."""
        array = self.read(name, *dtypes)
        if array.ndim != 0:
            raise UnfitArray(f"{name} is an array {array.shape}, not one number")
        return array.item()

    def _load(self, name: str) -> Array:
        if name not in self.names:
            raise UnfitArray(f"{self.title} has no {name}")
        self.looked_at.add(name)
        array = self._arrays[name]
        if isinstance(array, UnfitArray):
            raise array
        return array


def _read_member(file: Mapping[str, Array], name: str) -> Array | UnfitArray:
    try:
        return file[name]
    except _DAMAGE as error:
        return UnfitArray(f"{name} cannot be read ({error})")

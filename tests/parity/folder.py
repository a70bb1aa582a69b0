"""A reference folder: which file is checked how.

::

    mask_geometry.json
    manifests/  unet_*.json  vae_*.json  whisper_*.json
    golden/     meta.json (salt)  tiny_* (reduced networks)  *.npz
    golden/detector/  *.onnx (stand-ins)  cases.npz  images.npz  units.npz

What an ``.npz`` file holds is found out from the names of its arrays. Every array is compared, or
read on the way to one that is; any other, and any other file but prose (``.md``), is unknown and
fails.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from latentsync.face.landmarks106 import Landmarks106
from latentsync.face.scrfd import ScrfdDetector
from tests.parity.checks import (
    alignment,
    crop_restore,
    detector,
    detector_units,
    documents,
    end_to_end,
    mask,
    sampling,
    slicing,
    speech,
    unet,
    vae,
)
from tests.parity.networks import Networks
from tests.parity.output import Line, Output, judge
from tests.parity.recorded import RecordedFile, UnfitArray

SLOW = ("golden/unet_full",)
_PROSE = ".md"
_RULE = "golden/weights_rule.py"  # the same rule as tests/weights_rule.py; never run from there


class Folder:
    """Checks one folder.

    Args:
        root: the folder.
        scratch: an empty folder for files of weights.
    """

    def __init__(self, root: Path, scratch: Path) -> None:
        self.root = root
        self.networks = Networks(root / "golden", scratch)
        self.recorded = cache(self._open)
        self._opened_models: set[str] = set()

    def lines(self, *, skip_slow: bool = False) -> Iterator[Line]:
        """Yield a line for every array and every other file."""
        # Unlike Path.rglob this looks into folders that are links.
        walk = os.walk(self.root, followlinks=True)
        files = [Path(folder, name) for folder, _, names in walk for name in names]
        for path in sorted(files, key=_reading_order):
            title = path.relative_to(self.root).as_posix()
            if "__pycache__" in path.parts or path.suffix == _PROSE or title == _RULE:
                continue
            if skip_slow and _kind(title) in SLOW:
                yield Line(title, "(all)", verdict="skipped", remark="--skip-slow")
            else:
                yield from self.check(title)

    def check(self, title: str) -> Iterator[Line]:
        """Yield the lines of one file, called by its path in the folder with ``/``."""
        path = self.root / title
        if path.suffix == ".npz" and (check := _CHECKS.get(_kind(title) or "")):
            yield from self._check_arrays(title, check)
        elif path.suffix == ".json" and (line := documents.verify(path, title, self.networks)):
            yield line
        elif title in self._opened_models:
            yield Line(title, "(all)", verdict="input")
        else:
            yield Line(title, "(all)", verdict="FAIL", remark="no check knows this file")

    def _check_arrays(self, title: str, check: Check) -> Iterator[Line]:
        try:
            recorded = self.recorded(title)
        except UnfitArray as error:
            yield Line(title, "(all)", verdict="FAIL", remark=str(error))
            return
        if not recorded.names:
            yield Line(title, "(all)", verdict="FAIL", remark="holds no array")
        compared = set()
        try:
            for output in check(recorded, self):
                compared.add(output.name)
                yield judge(output, recorded)
        except Exception as error:  # a check that breaks must not end the others
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            yield Line(title, "(all)", verdict="FAIL", remark=reason)
        for name in recorded.names:
            if name in compared:
                continue
            if name in recorded.looked_at:
                yield Line(title, name, verdict="input")
            else:
                yield Line(title, name, verdict="FAIL", remark="no check uses this array")

    def open_detector(self) -> ScrfdDetector:
        """Open the stand-in for the face detector."""
        return ScrfdDetector.from_file(self._find_model("det*.onnx"))

    def open_landmarker(self) -> Landmarks106:
        """Open the stand-in for the landmark network."""
        return Landmarks106.from_file(self._find_model("landmark*.onnx"))

    def _find_model(self, pattern: str) -> Path:
        found = sorted((self.root / "golden/detector").glob(pattern))
        if len(found) != 1:
            raise UnfitArray(f"golden/detector has {len(found)} files {pattern} instead of one")
        self._opened_models.add(found[0].relative_to(self.root).as_posix())
        return found[0]

    def _open(self, title: str) -> RecordedFile:
        return RecordedFile(self.root / title, title)


Check = Callable[[RecordedFile, Folder], Iterator[Output]]


def _check_cases(recorded: RecordedFile, folder: Folder) -> Iterator[Output]:
    images = folder.recorded("golden/detector/images.npz")
    return detector.Cases(recorded, images, folder.open_detector, folder.open_landmarker).outputs()


_CHECKS: dict[str, Check] = {
    "golden/unet_tiny": lambda file, folder: unet.check_single(file, folder.networks),
    "golden/unet_tiny_stages": lambda file, folder: unet.check_stages(file, folder.networks),
    "golden/unet_full": lambda file, folder: unet.check_full(file, folder.networks),
    "golden/ddim_tiny": lambda file, folder: sampling.check(file, folder.networks),
    "golden/vae_tiny": lambda file, folder: vae.check(file, folder.networks),
    "golden/whisper_tiny_dims": lambda file, folder: speech.check_tiny(file, folder.networks),
    "golden/whisper_full_dims": lambda file, folder: speech.check_full(file, folder.networks),
    "golden/audio_slicing": lambda file, _: slicing.check(file),
    "golden/e2e": lambda file, folder: end_to_end.check(file, folder.networks),
    "golden/align": lambda file, _: alignment.check(file),
    "golden/crop_restore": lambda file, _: crop_restore.check(file),
    "golden/mask_prep": lambda file, _: mask.check(file),
    "golden/detector/cases": _check_cases,
    "golden/detector/images": lambda file, _: detector.image_names(file, file),
    "golden/detector/units": lambda file, folder: detector_units.check(
        file, folder.open_landmarker
    ),
}


def _kind(title: str) -> str | None:
    """Return the kind of a file: the longest known one that its name is or begins with."""
    stem = title.removesuffix(".npz")
    known = [kind for kind in _CHECKS if stem == kind or stem.startswith(f"{kind}_")]
    return max(known, key=len, default=None)


def _reading_order(path: Path) -> tuple[int, bool, str]:
    """Documents, then arrays, pictures after the cases that use them, then the used networks."""
    rank = {".json": 0, ".npz": 1}.get(path.suffix, 2)
    return rank, path.name == "images.npz", path.as_posix()

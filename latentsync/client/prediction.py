"""A finished video and where it is saved."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from latentsync.answers import PredictDetails


@dataclass(frozen=True)
class Prediction:
    """One finished video.

    Attributes:
        run_id: the server's reference.
        run_time_ms: milliseconds that the server spent on the run.
        details: how the video was made.
        video: the MP4 file's bytes.
    """

    run_id: str
    run_time_ms: float
    details: PredictDetails
    video: bytes = field(repr=False)

    def save(self, path: Path | str) -> Path:
        """Write the MP4 to ``path``, whole or not at all; missing folders are created."""
        return save_whole(self.video, Path(path))


def save_whole(content: bytes, target: Path) -> Path:
    """Write a file, whole or not at all; missing folders are created."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=target.parent, prefix=".saving-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(partial).chmod(0o644)  # mkstemp makes private files
        Path(partial).replace(target)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
    return target

"""Hands in jobs until it is killed: ``python -m tests.jobs.submitter FOLDER``.

Prints the id of each as soon as it was accepted. The folder holds clip.mp4 and speech.wav.
"""

from __future__ import annotations

import sys
import uuid
from pathlib import Path

from latentsync.jobs.service import JobService, Submission
from latentsync.schema.run import PathSource, RunOptions, RunRequest
from latentsync.settings import Settings
from tests.jobs.farm import OWNER


def main(folder: Path) -> None:
    """Hand in one job after the other."""
    service = JobService(Settings())
    video = PathSource(folder / "clip.mp4", "video")
    audio = PathSource(folder / "speech.wav", "audio")
    while True:
        request = RunRequest(video, audio, RunOptions(seed=0))
        (job,) = service.submit([Submission(request, uuid.uuid4().hex)], OWNER)
        sys.stdout.write(f"{job.id}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""What is kept for how long: results, media of jobs, and uploads nobody used."""

from __future__ import annotations

import time

from latentsync.jobs.files import FileStore
from latentsync.jobs.job import Job
from latentsync.jobs.store import JobStore
from latentsync.settings import Settings

RESULTS, INPUTS, UPLOADS = "results", "inputs", "uploads"


def remove_old(store: JobStore, files: FileStore, settings: Settings) -> None:
    """Forget jobs that ended too long ago, with their files, and uploads that are as old."""
    before = time.time() - settings.keep_results_s
    for job in store.remove_finished(before):
        remove_files(files, job)
    for name, changed_at in files.below(UPLOADS).items():
        if changed_at < before:
            files.remove(f"{UPLOADS}/{name}")


def remove_files(files: FileStore, job: Job) -> None:
    """Remove everything that was stored for a job."""
    for folder in (RESULTS, INPUTS):
        files.remove(f"{folder}/{job.id}")

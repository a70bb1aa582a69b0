"""A worker with the engines of the package: ``python -m tests.jobs.real_worker``."""

from __future__ import annotations

from latentsync.jobs import worker
from latentsync.settings import Settings

if __name__ == "__main__":
    worker.main(Settings(), with_parent=True)

"""Records of jobs for tests that need no engine and no worker."""

from __future__ import annotations

import uuid
from typing import Any

import sqlalchemy as sa

from latentsync.jobs.models import Job, NewJob
from latentsync.jobs.serialization import dump_options
from latentsync.jobs.store import Alongside, JobStore
from latentsync.schema.run import RunOptions

OWNER = "owner"


class Clock:
    """A clock that stands still until it is told otherwise."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def new_job(owner: str = OWNER, **changes: Any) -> NewJob:
    """Return a job to record; its media are addresses unless ``request`` says otherwise."""
    media = {
        name: {"url": f"https://example.com/{name}", "name": f"{name}_url"}
        for name in ("video", "audio")
    }
    request = {**media, "options": dump_options(RunOptions())}
    given = {"id": str(uuid.uuid4()), "owner": owner, "request": request, "fingerprint": "f"}
    return NewJob(**{**given, **changes})


def add(store: JobStore, owner: str = OWNER, **changes: Any) -> Job:
    """Record a job, and do not put it into any line."""
    return record(store, new_job(owner, **changes))[0]


def record(store: JobStore, *new: NewJob, alongside: Alongside | None = None) -> list[Job]:
    """Record jobs, all or none, and do with each what is to be done alongside."""
    with store.engine.begin() as connection:
        return store.insert(connection, new, alongside or _nothing)


def _nothing(_connection: sa.Connection, _job: NewJob, _number: int) -> None:
    pass

"""A worker whose jobs succeed at once: ``python -m tests.jobs.webhook_worker NAME``."""

from __future__ import annotations

import sys
from functools import partial
from threading import Event

from latentsync.jobs.database import open_database
from latentsync.jobs.models import JobStatus
from latentsync.jobs.queue import JobQueue, QueueConsumer
from latentsync.jobs.store import Finished, JobStore
from latentsync.jobs.webhooks import WebhookSender, record_delivery
from latentsync.settings import Settings


def main() -> None:
    """Serve until killed."""
    settings = Settings()
    engine = open_database(settings.jobs_database)
    queue = JobQueue(engine, settings.public_url)
    store = JobStore(engine, announce=queue.webhooks.announce)

    def run(job_id: str) -> None:
        job = store.begin(job_id, sys.argv[1])
        if job is not None:
            store.finish(job, Finished(JobStatus.SUCCEEDED, result_key=f"results/{job_id}/x.mp4"))

    sender = WebhookSender(settings, partial(record_delivery, engine))
    QueueConsumer(engine, sys.argv[1], run, sender.send).start()
    sys.stdout.write("open\n")
    sys.stdout.flush()
    Event().wait()


if __name__ == "__main__":
    main()

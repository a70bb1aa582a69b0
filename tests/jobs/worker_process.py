"""A worker whose device has small engines: ``python -m tests.jobs.worker_process``."""

from __future__ import annotations

import logging
import sys

from latentsync.settings import Settings
from latentsync.worker import worker

DEVICE = (sys.executable, "-m", "tests.jobs.square_runner")

if __name__ == "__main__":
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("latentsync").setLevel(logging.INFO)
    # Its device has a default engine of its own, whatever could run on this machine.
    settings = Settings().model_copy(update={"engine": "draft"})
    worker.main(settings, with_parent=True, device=DEVICE)

"""The job queue under load: python -m benchmarks.jobs [--clients N] [--jobs N] [--over SECONDS]

Many clients submit jobs through one JobService and poll them, while one worker runs them with an
engine that takes 50 ms and needs no media. First all at once, then spread over time. Prints the
95th percentiles of submitting and polling, and the jobs per second. Exit status 1 if a job is lost,
run twice or started out of order, or if the spread load misses a limit.
"""

import argparse
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from latentsync.jobs.models import Job, JobStatus
from latentsync.jobs.service import JobService, Submission
from latentsync.jobs.storage import Storage
from latentsync.schema.run import RunOptions, RunRequest, UrlSource
from latentsync.settings import Settings
from latentsync.worker import worker

ENGINE_S = 0.05
SUBMIT_MS, READ_MS = 100.0, 50.0  # allowed 95th percentiles of the spread load
READ_EVERY_S = 2.0
OWNER = "owner"
REQUEST = RunRequest(
    UrlSource("https://example.com/face.mp4", "video"),
    UrlSource("https://example.com/speech.wav", "audio"),
    RunOptions(),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--over", type=float, default=80.0, help="seconds of the spread load")
    parser.add_argument("--role", choices=["worker", "device"], help="used internally")
    arguments, rest = parser.parse_known_args()
    if arguments.role == "worker":
        device = (sys.executable, "-m", "benchmarks.jobs", "--role", "device")
        worker.main(Settings(), with_parent=True, device=device)
    if arguments.role == "device":
        work(socket.socket(fileno=int(rest[-1])))
        return 0
    failed = [
        measure(arguments.clients, arguments.jobs, over_s) for over_s in (0.0, arguments.over)
    ]
    return int(any(failed))


def work(connection: socket.socket) -> None:
    """Run jobs with an engine that does nothing for 50 ms."""
    files = Storage(Settings().storage)
    with tempfile.TemporaryDirectory() as folder, connection.makefile("r") as lines:
        result = Path(folder) / "result.mp4"
        result.write_bytes(b"result")
        for line in lines:
            time.sleep(ENGINE_S)
            files.put(result, json.loads(line)["run"]["output_key"])
            done = {"done": {"size_bytes": 6, "details": {}}}
            connection.sendall(json.dumps(done).encode() + b"\n")


def measure(clients: int, jobs: int, over_s: float) -> bool:
    """Run one load and print its results; return whether it failed."""
    with tempfile.TemporaryDirectory() as name:
        settings = Settings(
            data_dir=Path(name) / "data", work_dir=Path(name) / "work", max_jobs_per_key=10 * jobs
        )
        service = JobService(settings)
        process = start_worker(settings)
        try:
            time.sleep(3)  # for the worker to start
            started = time.perf_counter()
            with ThreadPoolExecutor(clients) as threads:
                share = [jobs // clients + (number < jobs % clients) for number in range(clients)]
                visits = list(threads.map(lambda n: Client(service, n, over_s).visit(), share))
            elapsed_s = time.perf_counter() - started
            return report(service, visits, elapsed_s, over_s)
        finally:
            process.kill()
            process.communicate()
            service.close()


def start_worker(settings: Settings) -> subprocess.Popen[bytes]:
    """Start a worker with the same database and files."""
    folders = {
        "LATENTSYNC_DATA_DIR": str(settings.data_dir),
        "LATENTSYNC_WORK_DIR": str(settings.work_dir),
    }
    command = [sys.executable, "-m", "benchmarks.jobs", "--role", "worker"]
    return subprocess.Popen(command, env={**os.environ, **folders}, stdin=subprocess.PIPE)


class Client:
    """Submits jobs and polls them until all have ended."""

    def __init__(self, service: JobService, jobs: int, over_s: float) -> None:
        self.service = service
        self.submit_ms: list[float] = []
        self.read_ms: list[float] = []
        self.jobs: list[Job] = []
        now = time.monotonic()
        self._due = sorted(now + random.uniform(0, over_s) for _ in range(jobs))

    def visit(self) -> "Client":
        for due in self._due:
            while (wait_s := due - time.monotonic()) > 0:
                time.sleep(min(wait_s, READ_EVERY_S))
                self._read()
            self._submit()
        while not all(job.status.is_final for job in self.jobs):
            time.sleep(READ_EVERY_S * random.uniform(0.5, 1.5))
            self._read()
        return self

    def _submit(self) -> None:
        started = time.perf_counter()
        self.jobs += self.service.submit([Submission(REQUEST, uuid.uuid4().hex)], OWNER)
        self.submit_ms.append((time.perf_counter() - started) * 1000)

    def _read(self) -> None:
        for place, job in enumerate(self.jobs):
            if not job.status.is_final:
                started = time.perf_counter()
                self.jobs[place] = self.service.job(job.id, OWNER)
                self.read_ms.append((time.perf_counter() - started) * 1000)


def report(service: JobService, visits: list[Client], elapsed_s: float, over_s: float) -> bool:
    """Print the results; return whether a limit was missed."""
    ended = sorted((job for visit in visits for job in visit.jobs), key=lambda job: job.number)
    begun = [job.started_at or 0.0 for job in ended]
    wrong = sum(job.status is not JobStatus.SUCCEEDED or job.attempts != 1 for job in ended)
    results = service.files.below("results")
    wrong += len(ended) - len(results)
    out_of_order = sum(later < earlier for earlier, later in zip(begun, begun[1:], strict=False))
    submit_ms, read_ms = (
        percentile([one for visit in visits for one in getattr(visit, kind)], 0.95)
        for kind in ("submit_ms", "read_ms")
    )
    span_s = max(job.finished_at or 0.0 for job in ended) - begun[0]
    each_ms, work_ms = 1000 * span_s / len(ended), 1000 * ENGINE_S
    print(
        f"{len(visits)} clients, {len(ended)} jobs over {over_s:g} s, all done in {elapsed_s:.0f} s"
        f" ({each_ms:.0f} ms a job, of which {work_ms:.0f} ms work): submit p95 {submit_ms:.0f} ms,"
        f" read p95 {read_ms:.0f} ms, {wrong} lost or doubled, {out_of_order} out of order"
    )
    late = over_s > 0 and (submit_ms > SUBMIT_MS or read_ms > READ_MS)
    return bool(wrong or out_of_order or late)


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else 0.0


if __name__ == "__main__":
    sys.exit(main())

"""The server under load: python -m benchmarks.load [--clients N] [--jobs N] [--rounds N]

Starts the server's process and a worker with an engine that takes 50 ms and needs no media, and
calls the server over HTTP as 200 clients would, while 100 event streams are open:

- in turn: each client starts at a random time in the first two seconds, submits a job, polls it
  once a second until it is done, and submits the next;
- at once: all clients submit five jobs at the same moment, without pauses, by URL, as an upload,
  and with small inline media. The response times then only depend on the throughput of the
  server: clients divided by jobs stored per second.

Prints medians and 95th percentiles of submitting and polling, jobs that are lost, duplicated or out
of order, and the server's memory after each round. Exit status 1 if there are such jobs, or if the
responses to clients in turn are slower than allowed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.jobs import READ_MS, SUBMIT_MS, percentile, start_worker
from benchmarks.lean_http import Caller
from latentsync.jobs.database import open_database
from latentsync.jobs.models import JobStatus
from latentsync.jobs.service import owner_of
from latentsync.jobs.storage import Storage
from latentsync.jobs.store import JobStore
from latentsync.settings import Settings
from tests.ports import free_port
from tests.server.clips import as_base64, write_clip, write_speech

IN_TURN = "in turn"
KEY = "key-of-the-benchmark"
ARRIVAL_S = 2.0  # in which listeners and the clients in turn start
ASK_EVERY_S = 1.0
LISTENERS = 100
PREDICTIONS = "/v1/predictions"
BY_ADDRESS = json.dumps(
    {"video_url": "https://example.com/face.mp4", "audio_url": "https://example.com/speech.wav"}
).encode()


@dataclass
class Round:
    """What the clients of one round saw; times are seconds since 1970.

    Attributes:
        handed_in: id of each job, when it was sent, when it was answered.
        asked_s: how long each answer about a job took.
        seconds: until the last client was gone.
        cpu_s: processor time of the server meanwhile.
    """

    handed_in: list[tuple[str, float, float]] = field(default_factory=list)
    asked_s: list[float] = field(default_factory=list)
    seconds: float = 0.0
    cpu_s: float = 0.0

    async def submit(self, caller: Caller, body: bytes) -> str:
        sent_at = time.time()
        status, job = await caller.call("POST", PREDICTIONS, body)
        if status != 202:
            raise RuntimeError(f"{status}: {job}")
        self.handed_in.append((job["id"], sent_at, time.time()))
        return str(job["id"])

    async def ask(self, caller: Caller, job_id: str) -> str:
        started = time.perf_counter()
        status, job = await caller.call("GET", f"{PREDICTIONS}/{job_id}")
        if status != 200:
            raise RuntimeError(f"{status}: {job}")
        self.asked_s.append(time.perf_counter() - started)
        return str(job["status"])


Visit = Callable[[Round, Caller, bytes, int], Awaitable[None]]


async def in_turn(seen: Round, caller: Caller, body: bytes, jobs: int) -> None:
    """Submit a job, wait for it, submit the next."""
    await asyncio.sleep(random.uniform(0, ARRIVAL_S))
    for _ in range(jobs):
        job_id = await seen.submit(caller, body)
        while await seen.ask(caller, job_id) in ("queued", "processing"):
            await asyncio.sleep(ASK_EVERY_S)


async def at_once(seen: Round, caller: Caller, body: bytes, jobs: int) -> None:
    """Submit jobs without pauses, then poll each once."""
    mine = [await seen.submit(caller, body) for _ in range(jobs)]
    for job_id in mine:
        await seen.ask(caller, job_id)


class Server:
    """The server's process and a worker, in a folder of their own."""

    def __init__(self, folder: Path, port: int, max_jobs: int) -> None:
        self.folder, self.port = folder, port
        self.settings = Settings(
            data_dir=folder / "data", work_dir=folder / "work", max_jobs_per_key=max_jobs
        )
        self.store = JobStore(open_database(self.settings.jobs_database))
        self._log = (folder / "server.log").open("wb")
        own = {"DATA_DIR": folder / "data", "WORK_DIR": folder / "work", "API_KEY": KEY}
        own |= {"MAX_JOBS_PER_KEY": max_jobs, "MIN_FREE_BYTES": 0, "OFFLINE": 1}
        environment = {f"LATENTSYNC_{name}": str(value) for name, value in own.items()}
        command = ["-m", "latentsync", "serve", "--no-worker", "--port", str(port)]
        self._server = subprocess.Popen(
            [sys.executable, *command],
            env={**os.environ, **environment},
            stdout=self._log,
            stderr=self._log,
        )
        self._worker = start_worker(self.settings)

    def rss_mib(self) -> int:
        """Return the memory that the server's process holds."""
        lines = Path(f"/proc/{self._server.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) // 1024

    def cpu_s(self) -> float:
        """Return the processor time that the server's process has used."""
        fields = Path(f"/proc/{self._server.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    async def until_ready(self) -> None:
        """Wait until the server is up and a worker is alive."""
        while self._server.poll() is None and self._worker.poll() is None:
            try:
                async with Caller(self.port, KEY) as caller:
                    if (await caller.call("GET", "/ready"))[0] == 200:
                        return
            except ConnectionError:
                pass
            await asyncio.sleep(0.1)
        raise RuntimeError((self.folder / "server.log").read_text())

    async def until_empty(self) -> None:
        """Wait until no job waits or runs."""
        while any(n for status, n in self.store.count().items() if not status.is_final):
            await asyncio.sleep(0.5)

    def close(self) -> None:
        """End both."""
        self._server.send_signal(signal.SIGTERM)
        self._server.wait(30)
        self._worker.kill()
        self._worker.communicate()
        self._log.close()
        self.store.engine.dispose()


@contextmanager
def running(port: int, max_jobs: int) -> Iterator[Server]:
    """Run server and worker for the block."""
    with tempfile.TemporaryDirectory() as name:
        server = Server(Path(name), port, max_jobs)
        try:
            yield server
        finally:
            server.close()


@asynccontextmanager
async def listeners(port: int, seen: Round, number: int) -> AsyncIterator[None]:
    """Keep so many event streams open, each on a job of the round and then on the next."""

    async def listen() -> None:
        await asyncio.sleep(random.uniform(0, ARRIVAL_S))
        while True:
            if not seen.handed_in:
                await asyncio.sleep(0.05)
                continue
            job_id = random.choice(seen.handed_in[-2 * number :])[0]
            async with Caller(port, KEY) as caller:
                async for _ in caller.listen(f"{PREDICTIONS}/{job_id}/events"):
                    pass

    tasks = [asyncio.create_task(listen()) for _ in range(number)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    failed = [one for one in outcomes if not isinstance(one, asyncio.CancelledError)]
    if failed:
        raise RuntimeError(f"{len(failed)} event streams broke: {failed[0]!r}")


async def play(server: Server, visit: Visit, body: bytes, shares: list[int]) -> Round:
    """Play one round: a client for each share, of so many jobs, and listeners; until all is done.

    Raises:
        RuntimeError: a call was refused, or an event stream broke.
    """
    seen = Round()
    async with AsyncExitStack() as connections:
        callers = [await connections.enter_async_context(Caller(server.port, KEY)) for _ in shares]
        async with listeners(server.port, seen, LISTENERS):
            cpu_s, started = server.cpu_s(), time.perf_counter()
            visits = zip(callers, shares, strict=True)
            await asyncio.gather(*(visit(seen, caller, body, jobs) for caller, jobs in visits))
            seen.seconds, seen.cpu_s = time.perf_counter() - started, server.cpu_s() - cpu_s
            await server.until_empty()
    return seen


def report(server: Server, title: str, seen: Round) -> bool:
    """Print what a round was like; returns whether that fails the benchmark."""
    submit_ms = [1000 * (answered - sent) for _, sent, answered in seen.handed_in]
    ask_ms = [1000 * asked for asked in seen.asked_s]
    submit_p95_ms, ask_p95_ms = percentile(submit_ms, 0.95), percentile(ask_ms, 0.95)
    wrong, out_of_order = faults(server, seen)
    span_s = max(at for *_, at in seen.handed_in) - min(at for _, at, _ in seen.handed_in)
    print(
        f"{title}: {len(submit_ms)} jobs in {span_s:.1f} s,"
        f" submit p50 {statistics.median(submit_ms):.0f} p95 {submit_p95_ms:.0f} ms;"
        f" asked {len(ask_ms)} times, p50 {statistics.median(ask_ms):.0f} p95 {ask_p95_ms:.0f} ms;"
        f" {wrong} lost or doubled, {out_of_order} out of order;"
        f" server {seen.cpu_s:.1f} s of CPU in {seen.seconds:.0f} s, {server.rss_mib()} MiB",
        flush=True,
    )
    late = submit_p95_ms > SUBMIT_MS or ask_p95_ms > READ_MS
    return bool(wrong or out_of_order or (late and title == IN_TURN))


def faults(server: Server, seen: Round) -> tuple[int, int]:
    """Return how many jobs are lost or duplicated, and how many were out of order.

    In order means: a job that was accepted before another was sent has the smaller number, and
    jobs begin in the order of their numbers.
    """
    found = {job.id: job for job in server.store.list_of(owner_of(KEY), limit=10**6)}
    mine = [found[job_id] for job_id, *_ in seen.handed_in if job_id in found]
    results = Storage(server.settings.storage).below("results")
    done = {
        job.id
        for job in mine
        if job.status is JobStatus.SUCCEEDED and job.attempts == 1 and job.id in results
    }
    lost_or_doubled = len(seen.handed_in) - len(done) + abs(len(found) - len(results))
    times = {job_id: (sent, answered) for job_id, sent, answered in seen.handed_in}
    mine.sort(key=lambda job: job.number)
    earliest_answer, too_early = float("inf"), 0
    for job in reversed(mine):  # a job stored before another was sent is ahead of it
        sent_at, answered_at = times[job.id]
        too_early += earliest_answer < sent_at
        earliest_answer = min(earliest_answer, answered_at)
    begun = [job.started_at or 0.0 for job in mine]
    too_early += sum(later < earlier for earlier, later in zip(begun, begun[1:], strict=False))
    return lost_or_doubled, too_early


async def bodies(server: Server) -> dict[str, bytes]:
    """Return what clients send: addresses, uploads, and media in the call itself."""
    with tempfile.TemporaryDirectory() as name:
        video, audio = write_clip(Path(name) / "clip.mp4"), write_speech(Path(name) / "speech.wav")
        inline = {"video_base64": as_base64(video), "audio_base64": as_base64(audio)}
        async with Caller(server.port, KEY) as caller:
            uploads = {}
            for medium, path in (("video_url", video), ("audio_url", audio)):
                _, stored = await caller.call("POST", "/v1/uploads", path.read_bytes(), "video/mp4")
                uploads[medium] = stored["url"]
    return {
        "by address": BY_ADDRESS,
        "as uploads": json.dumps(uploads).encode(),
        "media in the call": json.dumps(inline).encode(),
    }


def split(jobs: int, clients: int) -> list[int]:
    """Return how many jobs each client submits."""
    return [len(range(number, jobs, clients)) for number in range(clients)]


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=1000, help="of a round")
    parser.add_argument("--rounds", type=int, default=1, help="of each kind")
    parser.add_argument("--only", default="", help="rounds whose name holds this")
    arguments = parser.parse_args()
    shares = split(arguments.jobs, arguments.clients)
    failed = False
    with running(free_port(), 10 * arguments.jobs) as server:
        await server.until_ready()
        media = await bodies(server)
        rounds = [(IN_TURN, in_turn, BY_ADDRESS)]
        rounds += [(f"at once, {how}", at_once, body) for how, body in media.items()]
        print(f"the server holds {server.rss_mib()} MiB", flush=True)
        for _ in range(arguments.rounds):
            for title, visit, body in rounds:
                if arguments.only in title:
                    failed |= report(server, title, await play(server, visit, body, shares))
    return int(failed)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))

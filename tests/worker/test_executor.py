"""Attempts on small scripted devices: how each ends, and what it leaves in record and files."""

from __future__ import annotations

import logging
import sqlite3
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from sqlalchemy import event

from latentsync.jobs.database import open_database
from latentsync.jobs.disk_space import DiskReserve
from latentsync.jobs.models import Job, JobStatus
from latentsync.jobs.storage import Storage
from latentsync.jobs.store import JobStore
from latentsync.settings import Settings
from latentsync.worker.attempt import Limits, WorkerStopping
from latentsync.worker.executor import JobExecutor
from latentsync.worker.runner_process import RunnerProcess
from tests.jobs.records import add, new_job, record
from tests.server.live import wait_until

pytestmark = pytest.mark.processes

TALK = """
import json, os, pathlib, socket, sys, time
connection = socket.socket(fileno=int(sys.argv[-1]))
lines = connection.makefile("r")
def say(message): connection.sendall(json.dumps(message).encode() + b"\\n")
def tell(stage): say({"progress": {"stage": stage, "fraction": .5, "frames_done": 1,
                                   "frames_total": 2}})
def log(line): say({"log": line})
def put(key):
    path = pathlib.Path(sys.argv[1]) / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"result")
def wait_for(gate):
    while not os.path.exists(sys.argv[1] + "/" + gate): time.sleep(.01)
for line in lines:
    run = json.loads(line).get("run")
    if run is None: continue
    key = run["output_key"]
"""
SUCCEED = "    put(key); say({'done': {'size_bytes': 6, 'details': {'a': 1}}})"
FAIL = """
    say({"error": {"code": "NO_FACE", "message": "m", "status_code": 422, "field": "video"}})
"""
DIE = "    put(key); put(key + '.part'); os._exit(1)"
WAIT = "    tell('generate'); time.sleep(60)"
WAIT_AND_SUCCEED = "    tell('generate'); lines.readline(); " + SUCCEED.strip()


class Bench:
    """A record, files, and attempts on scripted devices."""

    def __init__(self, folder: Path) -> None:
        self.engine = open_database(f"sqlite:///{folder / 'jobs.db'}")
        self._patience_ms = 10_000
        event.listen(self.engine, "checkout", self._be_patient)
        self.store = JobStore(self.engine)
        self.root = folder / "files"
        self.files = Storage(str(self.root))
        self.stopping = Event()
        self._devices: list[RunnerProcess] = []
        self._folder = folder

    def reserve(self, min_free_bytes: int) -> DiskReserve:
        settings = Settings(
            data_dir=self._folder, work_dir=self._folder, min_free_bytes=min_free_bytes
        )
        return DiskReserve(settings, self.files)

    def attempts(
        self,
        script: str,
        *,
        host: str = "host",
        run_s: float = 60.0,
        loading_s: float = 60.0,
        room_s: float = 60.0,
        full_disk_s: float = 60.0,
        min_free_bytes: int = 0,
    ) -> JobExecutor:
        command = [sys.executable, "-c", TALK + script, str(self.root)]
        self._devices.append(RunnerProcess(command))
        limits = Limits(2, run_s, loading_s, room_s, full_disk_s)
        device, reserve = self._devices[-1], self.reserve(min_free_bytes)
        return JobExecutor(self.store, self.files, device, reserve, host, limits, self.stopping)

    def run(self, script: str, job: Job, **limits: float) -> Job:
        self.attempts(script, **limits).run(job.id)  # type: ignore[arg-type]
        return self.job(job)

    def job(self, job: Job) -> Job:
        found = self.store.get(job.id)
        assert found is not None
        return found

    def lines(self, job: Job) -> list[str]:
        """Return the lines of the job's log."""
        events = self.store.events(job.id)
        return [event.data["line"] for event in events if event.kind == "log"]

    def results(self) -> list[str]:
        return sorted(
            str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file()
        )

    @contextmanager
    def locked_record(self) -> Iterator[None]:
        """Let nobody write to the record, nor wait for it."""
        with closing(sqlite3.connect(self.engine.url.database or "")) as holder:
            holder.execute("BEGIN IMMEDIATE")
            self._patience_ms = 0
            yield
        self._patience_ms = 10_000

    def _be_patient(self, connection: Any, _record: object, _proxy: object) -> None:
        connection.execute(f"PRAGMA busy_timeout={self._patience_ms}")

    def open_gate(self, name: str) -> None:
        """Let a device go on that waits for it."""
        (self.root / name).touch()

    def wait_for_stage(self, job: Job) -> None:
        wait_until(lambda: self.job(job).stage == "generate")

    def wait_for_line(self, job: Job) -> None:
        wait_until(lambda: bool(self.lines(job)))

    def close(self) -> None:
        for device in self._devices:
            device.kill()
        self.engine.dispose()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    one = Bench(tmp_path)
    yield one
    one.close()


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as one:
        yield one


def code_of(job: Job) -> str | None:
    return None if job.error is None else job.error.code


def test_a_result_is_recorded_with_its_details(bench: Bench) -> None:
    ended = bench.run(SUCCEED, add(bench.store))
    assert (ended.status, ended.result_bytes, ended.details) == (JobStatus.SUCCEEDED, 6, {"a": 1})
    assert bench.results() == [ended.result_key]


def test_an_error_ends_the_job_at_its_first_attempt(bench: Bench) -> None:
    ended = bench.run(FAIL, add(bench.store))
    assert (ended.status, code_of(ended), ended.attempts) == (JobStatus.FAILED, "NO_FACE", 1)
    assert ended.error is not None
    assert ended.error.field == "video"


FULL = """
    say({"error": {"code": "DISK_FULL", "message": "m", "status_code": 507, "field": None}})
"""


def test_a_full_disk_is_waited_for_before_the_job_fails(bench: Bench) -> None:
    script = "    if not hasattr(os, 'tried'):\n        os.tried = 1" + FULL.replace("\n", "\n    ")
    ended = bench.run(script + "\n        continue\n" + SUCCEED, add(bench.store), room_s=0.1)
    assert (ended.status, ended.attempts) == (JobStatus.SUCCEEDED, 2)
    failed = bench.run(FULL, add(bench.store), room_s=0.1)
    assert (code_of(failed), failed.attempts) == ("DISK_FULL", 2)


def test_a_job_that_waits_for_room_can_be_canceled(
    bench: Bench, thread: ThreadPoolExecutor
) -> None:
    job = add(bench.store)
    running = thread.submit(bench.run, FULL, job)
    bench.wait_for_line(job)
    bench.store.cancel(job.id)
    assert running.result(50).status is JobStatus.CANCELED


def test_a_job_waits_for_a_full_disk_before_it_is_begun(
    bench: Bench, thread: ThreadPoolExecutor
) -> None:
    job = add(bench.store)
    running = thread.submit(bench.run, SUCCEED, job, min_free_bytes=2**62)
    bench.wait_for_line(job)
    bench.store.cancel(job.id)
    ended = running.result(50)
    assert (ended.status, ended.attempts) == (JobStatus.CANCELED, 0)
    waited = bench.run(SUCCEED, add(bench.store), min_free_bytes=2**62, full_disk_s=0.1)
    assert (waited.status, waited.attempts) == (JobStatus.SUCCEEDED, 1)


def test_attempts_that_found_the_disk_filled_by_others_do_not_count(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Room before each of three attempts, none after the first two.
    short = iter([False, True, False, True, False, False, False, False])
    monkeypatch.setattr(DiskReserve, "is_short", lambda _: next(short))
    ended = bench.run(FULL, add(bench.store), room_s=0.1)
    begun = [event for event in bench.store.events(ended.id) if "attempt" in event.data]
    assert (code_of(ended), ended.attempts, len(begun)) == ("DISK_FULL", 2, 4)


def test_lost_processes_use_the_attempts_up_and_leave_no_file(bench: Bench) -> None:
    ended = bench.run(DIE, add(bench.store))
    assert (code_of(ended), ended.attempts) == ("WORKER_LOST", 2)
    assert bench.results() == []
    assert bench.lines(ended) == ["Attempt 1 lost its process.", "Attempt 2 lost its process."]


@pytest.mark.parametrize("end", [SUCCEED, FAIL])
def test_what_a_device_logs_is_in_the_jobs_log_before_its_end(bench: Bench, end: str) -> None:
    script = "    tell('generate'); log('probe: 96x64'); log('write: done')\n"
    ended = bench.run(script + end, add(bench.store))
    assert bench.lines(ended) == ["probe: 96x64", "write: done"]
    assert bench.store.events(ended.id)[-1].kind == "status"


def test_the_last_words_of_a_lost_process_are_kept(bench: Bench) -> None:
    ended = bench.run("    log('probe: 96x64'); os._exit(1)", add(bench.store))
    assert bench.lines(ended)[:2] == ["probe: 96x64", "Attempt 1 lost its process."]


def test_an_attempt_after_a_lost_worker_is_told_of(bench: Bench) -> None:
    job = add(bench.store)
    bench.store.begin(job.id, "dead")
    ended = bench.run(SUCCEED, job)
    assert (ended.status, ended.attempts) == (JobStatus.SUCCEEDED, 2)
    assert bench.lines(job) == [
        "The previous attempt was lost with its worker; starting another one."
    ]


def test_what_lost_attempts_left_goes_when_the_job_ends(bench: Bench) -> None:
    job = add(bench.store)
    for name in ("old.mp4", "old.mp4.part"):
        (bench.root / "results" / job.id).mkdir(parents=True, exist_ok=True)
        (bench.root / "results" / job.id / name).write_bytes(b"left")
    ended = bench.run(SUCCEED, job)
    assert bench.results() == [ended.result_key]


def test_the_media_go_when_the_job_ends(bench: Bench) -> None:
    new = new_job()
    new.request["audio"] = {"key": "inputs/abc/audio", "name": "audio"}
    (bench.root / "inputs" / "abc").mkdir(parents=True)
    (bench.root / "inputs" / "abc" / "audio").write_bytes(b"media")
    (job,) = record(bench.store, new)
    bench.run(FAIL, job)
    assert bench.results() == []


def test_an_ended_job_is_not_run_again(bench: Bench) -> None:
    ended = bench.run(SUCCEED, add(bench.store))
    assert bench.run(FAIL, ended) == ended
    bench.attempts(SUCCEED).run("none")


def test_a_wish_to_stop_between_two_attempts_is_heard(bench: Bench) -> None:
    job = add(bench.store)
    bench.store.begin(job.id, "dead")
    bench.store.cancel(job.id)
    ended = bench.run(SUCCEED, job)
    assert (ended.status, ended.attempts) == (JobStatus.CANCELED, 1)
    assert bench.results() == []


@pytest.mark.parametrize("script", [WAIT, WAIT_AND_SUCCEED])
def test_a_canceled_run_ends_as_canceled_even_if_it_succeeds_meanwhile(
    bench: Bench, thread: ThreadPoolExecutor, script: str
) -> None:
    job = add(bench.store)
    running = thread.submit(bench.run, script, job)
    bench.wait_for_stage(job)
    bench.store.cancel(job.id)
    assert running.result(50).status is JobStatus.CANCELED  # WAIT would take a minute
    assert bench.results() == []


def test_a_run_beyond_its_limit_is_killed(bench: Bench) -> None:
    started = time.monotonic()
    ended = bench.run(WAIT, add(bench.store), run_s=0.1)
    assert code_of(ended) == "DEADLINE_EXCEEDED"
    assert time.monotonic() - started < 20  # by itself it would take a minute


def test_a_device_that_never_begins_is_killed(bench: Bench) -> None:
    ended = bench.run("    time.sleep(60)", add(bench.store), loading_s=0.3)
    assert code_of(ended) == "DEADLINE_EXCEEDED"


def test_a_stop_hands_the_job_back(bench: Bench, thread: ThreadPoolExecutor) -> None:
    job = add(bench.store)
    running = thread.submit(bench.run, WAIT, job)
    bench.wait_for_stage(job)
    bench.stopping.set()
    with pytest.raises(WorkerStopping):
        running.result(60)
    assert (bench.job(job).status, bench.job(job).attempts) == (JobStatus.PROCESSING, 0)
    assert bench.job(job).started_at is None
    with pytest.raises(WorkerStopping):
        bench.run(SUCCEED, job)
    bench.stopping.clear()
    assert bench.run(SUCCEED, job).attempts == 1
    # Nothing of a worker that was lost.
    assert bench.lines(job) == ["The worker was stopped; this attempt does not count."]


def test_a_record_that_is_away_costs_neither_the_attempt_nor_its_result(
    bench: Bench, thread: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="latentsync.worker.attempt")
    job = add(bench.store)
    script = "    tell('generate'); wait_for('one'); log('made'); wait_for('two')\n" + SUCCEED
    running = thread.submit(bench.run, script, job)
    bench.wait_for_stage(job)
    with bench.locked_record():
        bench.open_gate("one")
        wait_until(lambda: "goes on meanwhile" in caplog.text)  # its line cannot be written
        bench.open_gate("two")
        wait_until(lambda: any(name.startswith("results") for name in bench.results()))
    ended = running.result(60)
    assert (ended.status, ended.attempts) == (JobStatus.SUCCEEDED, 1)
    assert ended.result_key in bench.results()


def test_the_end_of_a_job_waits_for_the_record_unless_the_worker_is_stopped(
    bench: Bench, thread: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="latentsync.worker.attempt")
    job = add(bench.store)
    running = thread.submit(bench.run, "    tell('generate'); wait_for('one')\n" + FAIL, job)
    bench.wait_for_stage(job)
    with bench.locked_record():
        bench.open_gate("one")
        wait_until(lambda: caplog.text.count("goes on meanwhile") > 1)
        bench.stopping.set()
        with pytest.raises(WorkerStopping):
            running.result(60)


def test_what_a_broken_off_attempt_says_is_not_taken_for_the_next(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> bool:
        raise RuntimeError("the disk of the database is full")

    script = "    tell('generate'); wait_for('gate'); put(key); "
    script += "say({'done': {'size_bytes': 6, 'details': {'key': key}}})"
    jobs, attempts = [add(bench.store), add(bench.store)], bench.attempts(script)
    with monkeypatch.context() as patched:
        patched.setattr(bench.store, "report", refuse)
        with pytest.raises(RuntimeError):
            attempts.run(jobs[0].id)
    bench.open_gate("gate")
    for job in jobs:
        attempts.run(job.id)
        ended = bench.job(job)
        assert ended.details == {"key": ended.result_key}


def test_of_two_that_believe_they_own_a_job_one_makes_the_result(
    bench: Bench, thread: ThreadPoolExecutor
) -> None:
    job = add(bench.store)
    first = thread.submit(bench.attempts(WAIT_AND_SUCCEED, host="one").run, job.id)
    bench.wait_for_stage(job)
    bench.attempts(SUCCEED, host="two").run(job.id)
    first.result(60)
    ended = bench.job(job)
    assert (ended.status, ended.host, ended.attempts) == (JobStatus.SUCCEEDED, "two", 2)
    assert bench.results() == [ended.result_key]


def test_whoever_was_overtaken_does_not_begin_again_when_its_process_dies(
    bench: Bench, thread: ThreadPoolExecutor
) -> None:
    job = add(bench.store)
    script = "    tell('generate'); lines.readline(); os._exit(1)"
    first = thread.submit(bench.attempts(script, host="one").run, job.id)
    bench.wait_for_stage(job)
    assert bench.store.begin(job.id, "two") is not None
    first.result(60)
    now = bench.job(job)
    assert (now.status, now.host, now.attempts) == (JobStatus.PROCESSING, "two", 2)

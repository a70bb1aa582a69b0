"""The commands about jobs, run as a user runs them, against a real server with a real worker."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from latentsync.cli import app as cli
from tests.client.service import Service, job_service
from tests.jobs import square_runner
from tests.server.clips import write_clip
from tests.server.live import KEY, REPOSITORY

pytestmark = pytest.mark.processes

LONG = str(square_runner.SLOW + 60_000)
NOWHERE = "00000000-0000-4000-8000-000000000000"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with job_service(tmp_path_factory.mktemp("service")) as lent:
        yield lent


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, service: Service) -> None:
    for name in list(os.environ):
        if name.startswith(("LATENTSYNC_", "CEREBRIUM_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("LATENTSYNC_URL", service.url)
    monkeypatch.setenv("LATENTSYNC_API_KEY", KEY)


def run(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(cli.commands, list(arguments), env=environment)


def submit(service: Service, *options: str) -> str:
    """Submit a job and return its id, which is all that is on standard output."""
    media = ("--video", str(service.video), "--audio", str(service.audio))
    result = run("submit", *media, *options)
    assert result.exit_code == 0, result.output
    job_id = result.stdout.strip()
    assert str(uuid.UUID(job_id)) == job_id
    follows = f"; `latentsync watch {job_id}` follows it\n"
    assert re.fullmatch(r"queued, \d ahead", result.stderr.removesuffix(follows))
    return job_id


def one_line(result: Result) -> str:
    """Return the last line on stderr, which must be the only error."""
    lines = result.stderr.strip().splitlines()
    assert lines[-1].startswith("Error: "), result.output
    assert sum(line.startswith("Error: ") for line in lines) == 1
    assert KEY not in result.output
    return lines[-1]


def test_a_job_from_its_submission_to_the_file(service: Service, tmp_path: Path) -> None:
    job_id = submit(service, "--seed", str(square_runner.SLOW + 400), "--speaker", "0:3,4")
    output = tmp_path / "new folder" / "out put.mp4"
    result = run("watch", job_id, "--output", str(output))
    assert result.exit_code == 0, result.output
    said = result.stderr.splitlines()
    assert len(said) == len(set(said))
    assert "processing: generate" in said
    size_bytes = output.stat().st_size
    assert result.stdout.splitlines() == ["succeeded", f"{output}: {size_bytes} bytes"]
    state, made, stages = run("status", job_id).stdout.splitlines()
    assert state == "succeeded"
    assert made == "0.40 s, 10 frames, 96x64, engine square 1, seed 1400"
    assert "generate" in stages
    logged = run("log", job_id).stdout.splitlines()
    assert [line.split(":")[0] for line in logged] == [
        "fetch",
        "probe",
        "read",
        "generate",
        "write",
    ]
    again = tmp_path / "again.mp4"
    assert run("download", job_id, "--output", str(again)).exit_code == 0
    assert again.read_bytes() == output.read_bytes()


def test_warnings_of_a_job_are_shown_at_its_end(service: Service, tmp_path: Path) -> None:
    odd = write_clip(tmp_path / "odd.mp4", width=97)
    submitted = run("submit", "--video", str(odd), "--audio", str(service.audio))
    job_id = submitted.stdout.strip()
    message = (
        "video is 97x64 pixels; its frames were extended to 98x64, because H.264 needs even sides."
    )
    output = tmp_path / "o.mp4"
    state, watched, saved = run("watch", job_id, "--output", str(output)).stdout.splitlines()
    assert (state, watched) == ("succeeded", f"warning: {message}")
    assert saved.startswith(str(output))
    assert run("status", job_id).stdout.splitlines()[2] == f"warning: {message}"
    as_json = json.loads(run("status", job_id, "--json").stdout)
    assert as_json["details"]["warnings"] == [{"code": "SIZE_ROUNDED", "message": message}]
    logged = run("log", job_id).stdout.splitlines()
    assert logged.count(f"warning: {message}") == 1


def test_segments_have_files_of_their_own(service: Service, tmp_path: Path) -> None:
    entries = [
        {"audio": str(service.audio), "end_s": 0.2},
        {"audio": str(service.audio), "start_s": 0.2, "end_s": 0.4},
    ]
    (tmp_path / "segments.json").write_text(json.dumps(entries))
    talk = ("--video", str(service.video), "--segments", str(tmp_path / "segments.json"))
    result = run("submit", *talk, "--no-keep-sound")
    assert result.exit_code == 0, result.output
    job_id = result.stdout.strip()
    assert run("watch", job_id).exit_code == 0
    said = run("status", job_id).stdout.splitlines()
    assert said[2] == "segments: 0.00 to 0.20 s, 0.20 to 0.40 s"


def test_a_job_is_erased(service: Service) -> None:
    job_id = submit(service)
    assert run("delete", job_id).stdout == "deleted\n"
    for command in ("status", "delete"):
        again = run(command, job_id)
        assert again.exit_code == 1
        assert "There is no job" in one_line(again)


def test_a_running_job_is_shown_and_canceled(service: Service) -> None:
    job_id = submit(service, "--seed", LONG)
    late = run("watch", job_id, "--timeout-s", "1.5")
    assert late.exit_code == 1
    assert "after 1.5 s" in one_line(late)
    assert re.fullmatch(r"processing: \w+, \d% done\n", run("status", job_id).stdout)
    told = run("cancel", job_id).stdout
    assert told in ("stopping; this takes up to two seconds\n", "canceled\n")
    ended = run("watch", job_id)
    assert ended.exit_code == 1
    assert "was canceled" in one_line(ended)
    assert run("cancel", job_id).stdout == "canceled\n"


def test_a_failed_job_is_one_line_and_exit_code_1(service: Service, tmp_path: Path) -> None:
    job_id = submit(service, "--seed", str(square_runner.BROKEN))
    failed = run("watch", job_id, "--output", str(tmp_path / "o.mp4"))
    assert failed.exit_code == 1
    assert "failed unexpectedly" in one_line(failed)
    assert run("status", job_id).stdout.startswith("failed: The run failed unexpectedly")
    assert "no output" in one_line(run("download", job_id, "--output", str(tmp_path / "o.mp4")))
    assert list(tmp_path.iterdir()) == []


def test_the_list_is_a_table_or_json(service: Service) -> None:
    jobs = [submit(service) for _ in range(2)]
    for job_id in jobs:
        assert run("watch", job_id).exit_code == 0
    result = run("list", "--limit", "2")
    head, *rows = result.stdout.splitlines()
    assert head.split() == ["job", "submitted", "done", "status"]
    assert [row.split()[0] for row in rows] == jobs[::-1]
    assert rows[0].split()[-2:] == ["100%", "succeeded"]
    as_json = run("list", "--status", "succeeded", "--limit", "2", "--json").stdout.splitlines()
    assert [json.loads(line)["id"] for line in as_json] == jobs[::-1]
    assert json.loads(run("status", jobs[0], "--json").stdout)["details"]["engine"] == "square"


def test_the_same_name_is_the_same_job(service: Service) -> None:
    name = ("--idempotency-key", str(uuid.uuid4()), "--seed", LONG)
    first = submit(service, *name)
    media = ("--video", str(service.video), "--audio", str(service.audio))
    assert run("submit", *media, *name).stdout.strip() == first
    assert run("cancel", first).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "exit_code", "said"),
    [
        (("status", NOWHERE), 1, "There is no job"),
        (("status", "../x"), 2, "job is '../x'"),
        (("watch", NOWHERE), 1, "There is no job"),
        (("watch", NOWHERE, "--output", "o.avi"), 2, "ends in .mp4"),
        (("download", NOWHERE, "--output", "/"), 2, "is a folder"),
        (("list", "--url", "nowhere"), 2, "url is 'nowhere'"),
        (("list", "--token", "wrong"), 1, "refused the key of --token"),
        (("status", NOWHERE, "--token", "wrong"), 1, "refused the key of --token"),
        (("watch", NOWHERE, "--token", "wrong"), 1, "refused the key of --token"),
        (("log", NOWHERE, "--token", "wrong"), 1, "refused the key of --token"),
        (("cancel", NOWHERE, "--token", "wrong"), 1, "refused the key of --token"),
        (("download", NOWHERE, "--output", "o.mp4", "--token", "wrong"), 1, "refused the key of"),
        (("submit", "--video", "http://a/b"), 2, "--audio, or --segments"),
        (("submit", "--video", "http://a/b", "--segments", "no.json"), 2, "no.json: No such file"),
        (("submit", "--video", "no.mp4", "--audio", "no.wav"), 2, "video 'no.mp4'"),
        (("submit", "--video", "http://a/b", "--audio", "http://a/b", "--seed", "-2"), 2, "seed"),
    ],
)
def test_what_is_wrong_is_one_line(arguments: tuple[str, ...], exit_code: int, said: str) -> None:
    result = run(*arguments)
    assert result.exit_code == exit_code
    assert said in one_line(result)


def test_the_key_may_be_in_variables_with_earlier_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LATENTSYNC_API_KEY")
    assert "requires a key: set LATENTSYNC_API_KEY" in one_line(run("list"))
    assert run("list", CEREBRIUM_API_KEY=KEY).exit_code == 0
    assert run("list", LATENTSYNC_TOKEN=KEY, CEREBRIUM_API_KEY="wrong").exit_code == 0


def test_stopping_to_watch_does_not_stop_the_job(service: Service) -> None:
    job_id = submit(service, "--seed", LONG)
    with subprocess.Popen(
        [sys.executable, "-m", "latentsync", "watch", job_id],
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        text=True,
    ) as watching:
        assert watching.stderr is not None
        while "generate" not in watching.stderr.readline():
            pass
        watching.send_signal(signal.SIGINT)
        assert watching.stderr.read() == "Stopped watching; the job continues.\n"
    assert watching.returncode == 128 + signal.SIGINT
    assert run("status", job_id).stdout.startswith("processing")
    run("cancel", job_id)

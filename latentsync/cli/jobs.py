"""Commands for jobs on a server: ``latentsync submit``, ``status``, ``delete`` and so on.

Results go to standard output, messages for people to standard error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentsync.cli.options import (
    Audio,
    Output,
    SegmentsPath,
    Token,
    Url,
    Video,
    check_output,
    connected,
    describe,
    errors_as_one_line,
    print_details,
    print_warnings,
    with_run_options,
)

if TYPE_CHECKING:
    from latentsync.client import Client, Job

commands = typer.Typer()

_HERE = "http://127.0.0.1:8000"
_STILL_RUNNING = "Stopped watching; the job continues."

JobId = Annotated[str, typer.Argument(metavar="JOB", help="The job's id, as submit prints it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one job per line.")]


class StatusName(StrEnum):
    """Values of ``list --status``."""

    QUEUED = "queued"
    PROCESSING = "processing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"


@commands.command()
@with_run_options
def submit(
    *,
    video: Video,
    audio: Audio = None,
    segments: SegmentsPath = None,
    url: Url = _HERE,
    token: Token = "",
    idempotency_key: Annotated[
        str | None,
        typer.Option(help="Your key for this job; sending it again returns the job."),
    ] = None,
    webhook_url: Annotated[
        str | None, typer.Option(help="Address that the server calls when the job ends.")
    ] = None,
    options: dict[str, Any],
) -> None:
    """Submit a job and print its id without waiting for the result."""
    with errors_as_one_line(when_stopped="Stopped; `latentsync list` shows what was submitted."):
        from latentsync.cli.segments import read_speech

        spoken = read_speech(audio, segments)
        with connected(url, token) as client:
            job = client.submit(
                video,
                audio,
                segments=spoken,
                idempotency_key=idempotency_key,
                webhook_url=webhook_url,
                **options,
            )
    typer.echo(job.id)
    typer.echo(f"{_state(job)}; `latentsync watch {job.id}` follows it", err=True)


@commands.command()
def status(job_id: JobId, url: Url = _HERE, token: Token = "", as_json: AsJson = False) -> None:
    """Show the status and progress of a job."""
    with errors_as_one_line(), connected(url, token) as client:
        job = client.get(job_id)
    if as_json:
        typer.echo(job.model_dump_json())
        return
    typer.echo(_state(job) if job.is_final else f"{_state(job)}, {job.progress.fraction:.0%} done")
    if job.details is not None:
        typer.echo(describe(job.details))
        print_details(job.details)


@commands.command()
def watch(
    job_id: JobId,
    url: Url = _HERE,
    token: Token = "",
    output: Annotated[
        Path | None, typer.Option(help="Download the video to this file at the end.")
    ] = None,
    timeout_s: Annotated[
        float | None, typer.Option(min=0, help="Stop watching after so many seconds.")
    ] = None,
) -> None:
    """Follow a job until it ends.

    The exit code is 1 if it fails or is canceled.
    """
    with errors_as_one_line(when_stopped=_STILL_RUNNING), connected(url, token) as client:
        if output is not None:
            check_output(output)
        with _job_bar() as show:
            job = client.wait(job_id, on_progress=show, timeout_s=timeout_s)
        job.raise_for_status()
        typer.echo(_state(job))
        if job.details is not None:
            print_warnings(job.details)
        if output is not None:
            _download(client, job.id, output)


@commands.command()
def log(job_id: JobId, url: Url = _HERE, token: Token = "") -> None:
    """Print the log of a job's stages and attempts until it ends."""
    with errors_as_one_line(when_stopped=_STILL_RUNNING), connected(url, token) as client:
        for event in client.events(job_id):
            if event.kind == "log":
                typer.echo(event.data["line"])


@commands.command()
def cancel(job_id: JobId, url: Url = _HERE, token: Token = "") -> None:
    """Cancel a queued or running job."""
    with errors_as_one_line(when_stopped=_STILL_RUNNING), connected(url, token) as client:
        job = client.cancel(job_id)
    if job.is_final:
        typer.echo(_state(job))
    else:
        typer.echo("stopping; this takes up to two seconds")


@commands.command()
def delete(job_id: JobId, url: Url = _HERE, token: Token = "") -> None:
    """Delete a job with its media, video and records. This cannot be undone."""
    with errors_as_one_line(when_stopped=_STILL_RUNNING), connected(url, token) as client:
        is_gone = client.delete(job_id)
    left = "deleted; the server removes the remaining files as soon as it can"
    typer.echo("deleted" if is_gone else left)


@commands.command("list")
def list_jobs(
    url: Url = _HERE,
    token: Token = "",
    status: Annotated[StatusName | None, typer.Option(help="Only jobs with this status.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="Maximum number of jobs.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List your jobs, newest first."""
    with errors_as_one_line(), connected(url, token) as client:
        page = client.list(None if status is None else status.value, limit=limit)
    if as_json:
        for job in page.jobs:
            typer.echo(job.model_dump_json())
        return
    if not page.jobs:
        typer.echo("no jobs", err=True)
        return
    _print_table(page.jobs)
    if page.next_cursor is not None:
        typer.echo(f"older jobs are not shown; raise --limit above {limit}", err=True)


@commands.command()
def download(job_id: JobId, output: Output, url: Url = _HERE, token: Token = "") -> None:
    """Download a job's video.

    An interrupted download is resumed.
    """
    stopped = "Stopped; the partial download is kept and resumed next time."
    with errors_as_one_line(when_stopped=stopped), connected(url, token) as client:
        check_output(output)
        _download(client, job_id, output)


def _download(client: Client, job_id: str, output: Path) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

    console = Console(stderr=True)
    with Progress(
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=console,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task(output.name)
        client.download(
            job_id,
            output,
            on_bytes=lambda here, whole: bar.update(task, completed=here, total=whole),
        )
    typer.echo(f"{output}: {output.stat().st_size} bytes")


@contextmanager
def _job_bar() -> Iterator[Callable[[Job], None]]:
    """Show a progress bar on a terminal, otherwise a line per stage."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console) as bar:
        task = bar.add_task("asking", total=1.0)

        def show(job: Job) -> None:
            bar.update(task, description=_state(job), completed=job.progress.fraction)

        yield show


class _Lines:
    """Prints a line whenever the state of the job changes."""

    def __init__(self) -> None:
        self._said = ""

    def __call__(self, job: Job) -> None:
        line = _state(job, with_frames=False)
        if line != self._said and not job.is_final:
            typer.echo(line, err=True)
        self._said = line


def _state(job: Job, *, with_frames: bool = True) -> str:
    if job.status == "queued":
        return "queued" if job.queue_position is None else f"queued, {job.queue_position} ahead"
    if job.error is not None:
        return f"{job.status}: {job.error.message}"
    if job.is_final:
        return job.status
    words = [f"processing: {job.progress.stage.replace('_', ' ') or 'starting'}"]
    if with_frames and job.progress.frames_total:
        words.append(f"{job.progress.frames_done} of {job.progress.frames_total} frames")
    if job.attempts > 1:
        words.append(f"attempt {job.attempts}")
    return ", ".join(words)


def _print_table(jobs: tuple[Job, ...]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("job", "submitted", "done", "status", box=None)
    for job in jobs:
        submitted = (
            "" if job.created_at is None else f"{job.created_at.astimezone():%Y-%m-%d %H:%M}"
        )
        table.add_row(job.id, submitted, f"{job.progress.fraction:4.0%}", _state(job))
    piped = not Console().is_terminal  # then rows are not folded
    Console(width=1000 if piped else None).print(table)

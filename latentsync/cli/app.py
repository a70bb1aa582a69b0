"""The commands ``serve``, ``worker``, ``run`` and ``predict``. Heavy imports are deferred.

Commands about jobs are in :mod:`latentsync.cli.jobs`, about weights in
:mod:`latentsync.cli.weights`.

Exit codes: 0 success, 1 the run failed (stderr says why in one line), 2 usage error, 3 the server
or worker could not start.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from socket import socket
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentsync import __version__
from latentsync.cli import jobs, weights
from latentsync.cli.options import (
    Audio,
    Output,
    SegmentsPath,
    Token,
    Url,
    Video,
    check_output,
    connected,
    errors_as_one_line,
    fail,
    load_settings,
    print_summary,
    with_run_options,
)
from latentsync.cli.signals import before_exit
from latentsync.errors import LatentSyncError
from latentsync.schema.predict import build_options, build_segments, validate_fields
from latentsync.schema.responses import PredictDetails
from latentsync.schema.run import MediaSource, PathSource, RunRequest, UrlSource, segment_recording
from latentsync.settings import KEY_VARIABLE, KEYS_VARIABLE, Settings
from latentsync.workspace import remove_own_folders

if TYPE_CHECKING:
    from latentsync.client import Segment

logger = logging.getLogger(__name__)

before_exit(remove_own_folders)

commands = typer.Typer(
    help="Lip-sync a video to a speech recording.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
commands.add_typer(jobs.commands)
commands.add_typer(weights.commands, name="weights")


def main() -> None:
    """Entry point of the ``latentsync`` command."""
    commands()


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"latentsync {__version__}")
        raise typer.Exit


@commands.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    pass


@commands.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 8000,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Require no key; loopback addresses only.")
    ] = False,
    no_worker: Annotated[
        bool, typer.Option("--no-worker", help="Only accept jobs; workers run elsewhere.")
    ] = False,
    ui: Annotated[
        bool, typer.Option("--ui", help="Serve a web page at /; needs pip install -e '.[ui]'.")
    ] = False,
) -> None:
    """Run the HTTP server, with a worker as a child process.

    Callers must send a key of LATENTSYNC_API_KEY.
    """
    settings = load_settings()
    if no_auth and not _is_loopback(host):
        fail(f"--no-auth listens on a loopback address only, not on {host!r}.", exit_code=2)
    if not no_auth and not settings.api_keys:
        fail(
            f"Set {KEY_VARIABLE} to the key that callers must send, or to several with commas "
            "between them; or give --no-auth.",
            exit_code=2,
        )

    if ui and find_spec("gradio") is None:
        fail("--ui needs more packages: pip install -e '.[ui]'.", exit_code=2)

    if os.environ.get(KEY_VARIABLE) and os.environ.get(KEYS_VARIABLE):
        both = f"{KEY_VARIABLE} and {KEYS_VARIABLE} are both set: callers may send a key of either."
        typer.echo(f"Warning: {both}", err=True)
    with _listening(host, port) as listeners:
        from latentsync.pipelines.registry import require_any_engine, survey_engines
        from latentsync.server.app import build_app
        from latentsync.server.serve import serve as serve_app

        with_worker = not no_worker
        _log_to_stderr()
        with _failing_to_start():
            if with_worker:
                require_any_engine(settings)
            survey = survey_engines if with_worker else None
            app = build_app(settings, require_key=not no_auth, with_page=ui, survey=survey)
        _log_start(settings, with_worker=with_worker)
        serve_app(
            app,
            listeners=listeners,
            grace_s=settings.shutdown_grace_s,
            with_worker=with_worker,
        )


@commands.command()
def worker(
    with_parent: Annotated[
        bool, typer.Option("--with-parent", hidden=True, help="Exit when stdin closes.")
    ] = False,
) -> None:
    """Run jobs on this machine's device.

    Any number of workers may share one database and file storage.
    """
    settings = load_settings(warn=not with_parent)  # the parent has warned already

    from latentsync.worker.worker import main as work

    _log_to_stderr()
    with _failing_to_start():
        work(settings, with_parent=with_parent)


@commands.command()
@with_run_options
def run(
    *,
    video: Video,
    audio: Audio = None,
    segments: SegmentsPath = None,
    output: Output,
    options: dict[str, Any],
) -> None:
    """Make the video on this machine."""
    with errors_as_one_line():
        from latentsync.cli.segments import read_speech

        request = _request_here(video, audio, read_speech(audio, segments), options)
        check_output(output, *_files_of(request))
        details = _run_here(request, output)
    print_summary(output, details)


@commands.command()
@with_run_options
def predict(
    *,
    url: Url,
    video: Video,
    audio: Audio = None,
    segments: SegmentsPath = None,
    output: Output,
    token: Token = "",
    options: dict[str, Any],
    timeout_s: Annotated[float, typer.Option(min=1, help="Read timeout in seconds.")] = 900.0,
) -> None:
    """Make the video on a server, local or on Cerebrium."""
    with errors_as_one_line():
        from latentsync.cli.segments import read_speech
        from latentsync.client._payload import named_media

        spoken = read_speech(audio, segments)
        check_output(output, *map(str, named_media(video, audio, spoken).values()))
        with connected(url, token, timeout_s=timeout_s) as client:
            prediction = client.predict(video, audio, segments=spoken, **options)
        prediction.save(output)
    print_summary(output, prediction.details)
    typer.echo(f"run {prediction.run_id}: {prediction.run_time_ms / 1000:.1f} s on the server")


def _request_here(
    video: str, audio: str | None, segments: Sequence[Segment], options: Mapping[str, Any]
) -> RunRequest:
    """Build a request whose media are local paths or URLs."""
    from latentsync.client._payload import segment_fields

    fields = validate_fields({**options, "segments": [segment_fields(one) for one in segments]})
    return RunRequest(
        video=_source("video", video),
        audio=None if audio is None else _source("audio", audio),
        options=build_options(fields),
        segments=tuple(
            made
            if given.audio is None
            else replace(made, audio=_source(segment_recording(index), str(given.audio)))
            for index, (made, given) in enumerate(
                zip(build_segments(fields), segments, strict=True)
            )
        ),
    )


def _run_here(request: RunRequest, output: Path) -> PredictDetails:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    from latentsync import monitor, runner
    from latentsync.pipelines.registry import build_pipeline
    from latentsync.workspace import sweep

    settings = _with_folders_of(request, load_settings())
    sweep(settings.work_dir)
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(
        *columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("starting", total=1.0)

        def show(progress: monitor.Progress) -> None:
            bar.update(
                task, description=progress.stage.replace("_", " "), completed=progress.fraction
            )

        pipeline = build_pipeline(request.options.engine or settings.engine, settings)
        result = runner.run(request, output, settings=settings, pipeline=pipeline, on_progress=show)
    return result.details


def _source(medium: str, given: str) -> MediaSource:
    if "://" in given:  # an unsupported scheme is reported when it is fetched
        return UrlSource(given, name=medium)
    return PathSource(Path(given), name=medium)


def _files_of(request: RunRequest) -> list[Path]:
    return [media.path for media in request.media.values() if isinstance(media, PathSource)]


def _with_folders_of(request: RunRequest, settings: Settings) -> Settings:
    """Allow the folders of the given files: the user of the command can read them anyway."""
    folders = tuple(Path(os.path.realpath(path)).parent for path in _files_of(request))
    return settings.model_copy(update={"allowed_roots": settings.allowed_roots + folders})


@contextmanager
def _failing_to_start() -> Iterator[None]:
    """Exit with one line if a folder, the storage or the database cannot be used."""
    from sqlalchemy.exc import DBAPIError

    try:
        yield
    except LatentSyncError as error:
        fail(error.message, exit_code=3)
    except DBAPIError as error:
        reason = " ".join(str(error.orig).split())
        fail(f"The jobs database cannot be used: {reason}", exit_code=3)
    except OSError as error:
        fail(f"{error.filename or 'A folder'} cannot be used: {error.strerror}.", exit_code=3)


@contextmanager
def _listening(host: str, port: int) -> Iterator[list[socket]]:
    """Bind the server's address before anything else is imported or started."""
    from latentsync.server.serve import CannotListen, listen

    try:
        listeners = listen(host, port)
    except CannotListen as error:
        fail(str(error), exit_code=3)
    try:
        yield listeners
    finally:
        for listener in listeners:
            listener.close()


def _log_start(settings: Settings, *, with_worker: bool) -> None:
    from sqlalchemy import make_url

    # Both URLs may contain a password; a database URL may have one in its query, too.
    database = make_url(settings.jobs_database).set(query={}).render_as_string(hide_password=True)
    storage = re.sub(r"(?<=://)[^/@]*@", "", settings.storage)
    logger.info("jobs database: %s; file storage: %s", database, storage)
    if with_worker:
        logger.info("jobs run in a worker process of this server")
    else:
        logger.info("jobs wait for a `latentsync worker`: this server starts none (--no-worker)")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _log_to_stderr() -> None:
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("latentsync").setLevel(logging.INFO)

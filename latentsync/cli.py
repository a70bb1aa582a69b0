"""The command line: serve, run here, or ask a server. Heavy imports wait for their command.

Exit codes: 0 done, 1 the run failed (one line on stderr says why), 2 the command was wrong,
3 the server could not start.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Never

import typer
from pydantic import ValidationError

from latentsync import __version__, weights_commands
from latentsync.errors import InvalidField, InvalidRequest, LatentSyncError, shorten
from latentsync.schema import (
    MediaSource,
    PathSource,
    PredictDetails,
    RunRequest,
    SyncMode,
    UrlSource,
    build_options,
    validate_fields,
)
from latentsync.settings import Settings, explain

commands = typer.Typer(
    help="The same video, with lips that say other speech.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
commands.add_typer(weights_commands.commands, name="weights")

_NUMBER = r"\d+(?:\.\d+)?"
_SPEAKER = re.compile(rf"(\d+):({_NUMBER}(?:,{_NUMBER}){{1}}(?:(?:,{_NUMBER}){{2}})?)")

Video = Annotated[str, typer.Option(help="Source video: a file or an http(s) address.")]
Audio = Annotated[str, typer.Option(help="Speech: a file or an http(s) address.")]
Output = Annotated[Path, typer.Option(help="Where the finished MP4 goes.")]
GuidanceScale = Annotated[float, typer.Option(help="1.0 to 3.0; 1.0 means none.")]
InferenceSteps = Annotated[int, typer.Option(help="1 to 50.")]
Seed = Annotated[int, typer.Option(help="-1 draws a random one.")]
DeadlineS = Annotated[float | None, typer.Option(help="Give up after so many seconds.")]
Engine = Annotated[str | None, typer.Option(help="auto, latentsync-1.6, latentsync-1.5 or draft.")]
Scheduler = Annotated[str, typer.Option(help="ddim, or dpm-solver++ for fewer steps.")]
CacheInterval = Annotated[
    int, typer.Option(help="Run the whole network only every so many steps; approximate above 1.")
]
Interval = Annotated[
    tuple[float, float], typer.Option(help="Part of the steps with guidance, 0 to 1.")
]
Mode = Annotated[SyncMode, typer.Option(help="What to do when the lengths differ.")]
SpeakerText = Annotated[
    str, typer.Option("--speaker", help="auto, FRAME:X,Y or FRAME:X1,Y1,X2,Y2 (pixels).")
]


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
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it.")
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
        bool, typer.Option("--no-auth", help="Ask for no key; loopback addresses only.")
    ] = False,
    no_worker: Annotated[
        bool, typer.Option("--no-worker", help="Take jobs only; workers run elsewhere.")
    ] = False,
) -> None:
    """Answer HTTP calls, with a worker beside; keys come from LATENTSYNC_API_KEYS."""
    settings = _load_settings()
    if no_auth and not _is_loopback(host):
        _fail(f"--no-auth listens on a loopback address only, not on {host!r}.", exit_code=2)
    if not no_auth and not settings.api_keys:
        _fail("Set LATENTSYNC_API_KEYS to one or more keys, or give --no-auth.", exit_code=2)

    from latentsync.server.app import build_app
    from latentsync.server.serve import serve as serve_app

    _log_to_stderr()
    app = build_app(settings, require_key=not no_auth)
    serve_app(
        app,
        host=host,
        port=port,
        grace_s=settings.shutdown_grace_s,
        with_worker=not no_worker,
    )


@commands.command()
def worker(
    with_parent: Annotated[
        bool, typer.Option("--with-parent", hidden=True, help="End when standard input does.")
    ] = False,
) -> None:
    """Run jobs on this machine's device; any number of workers may share a database and files."""
    settings = _load_settings()

    from latentsync.jobs.worker import main as work

    _log_to_stderr()
    work(settings, with_parent=with_parent)


@commands.command()
def run(
    video: Video,
    audio: Audio,
    output: Output,
    guidance_scale: GuidanceScale = 1.5,
    inference_steps: InferenceSteps = 20,
    seed: Seed = 1247,
    sync_mode: Mode = SyncMode.BOUNCE,
    speaker: SpeakerText = "auto",
    deadline_s: DeadlineS = None,
    engine: Engine = None,
    scheduler: Scheduler = "ddim",
    feature_cache_interval: CacheInterval = 1,
    guidance_interval: Interval = (0.0, 1.0),
) -> None:
    """Make the video on this machine."""
    with _errors_as_one_line():
        fields = validate_fields(
            {
                "guidance_scale": guidance_scale,
                "inference_steps": inference_steps,
                "seed": seed,
                "sync_mode": sync_mode.value,
                "speaker": parse_speaker(speaker),
                "deadline_s": deadline_s,
                "engine": engine,
                "scheduler": scheduler,
                "feature_cache_interval": feature_cache_interval,
                "guidance_interval": guidance_interval,
            }
        )
        _check_output(output, video, audio)
        request = RunRequest(
            _source("video", video), _source("audio", audio), build_options(fields)
        )
        details = _run_here(request, output)
    _print_summary(output, details)


@commands.command()
def predict(
    url: Annotated[str, typer.Option(help="Address of the server or of the app.")],
    video: Video,
    audio: Audio,
    output: Output,
    token: Annotated[str, typer.Option(envvar="CEREBRIUM_API_KEY", help="Bearer token.")] = "",
    guidance_scale: GuidanceScale = 1.5,
    inference_steps: InferenceSteps = 20,
    seed: Seed = 1247,
    sync_mode: Mode = SyncMode.BOUNCE,
    speaker: SpeakerText = "auto",
    deadline_s: DeadlineS = None,
    engine: Engine = None,
    scheduler: Scheduler = "ddim",
    feature_cache_interval: CacheInterval = 1,
    guidance_interval: Interval = (0.0, 1.0),
    timeout_s: Annotated[float, typer.Option(min=1, help="Longest silence, in seconds.")] = 900.0,
) -> None:
    """Ask a server, local or on Cerebrium, to make the video."""
    with _errors_as_one_line():
        from latentsync.client import Client

        fields = validate_fields(
            {
                "guidance_scale": guidance_scale,
                "inference_steps": inference_steps,
                "seed": seed,
                "sync_mode": sync_mode.value,
                "speaker": parse_speaker(speaker),
                "deadline_s": deadline_s,
                "engine": engine,
                "scheduler": scheduler,
                "feature_cache_interval": feature_cache_interval,
                "guidance_interval": guidance_interval,
            }
        )
        _check_output(output, video, audio)
        with Client(url, token or None, timeout_s=timeout_s) as client:
            prediction = client.predict(
                video,
                audio,
                guidance_scale=fields.guidance_scale,
                inference_steps=fields.inference_steps,
                seed=fields.seed,
                sync_mode=fields.sync_mode,
                speaker=fields.speaker,
                deadline_s=fields.deadline_s,
                engine=fields.engine,
                scheduler=fields.scheduler,
                feature_cache_interval=fields.feature_cache_interval,
                guidance_interval=fields.guidance_interval,
            )
        prediction.save(output)
    _print_summary(output, prediction.details)
    typer.echo(f"run {prediction.run_id}: {prediction.run_time_ms / 1000:.1f} s on the server")


def _run_here(request: RunRequest, output: Path) -> PredictDetails:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    from latentsync import monitor, runner
    from latentsync.pipelines.base import build_pipeline
    from latentsync.workspace import sweep

    settings = _with_folders_of(request, _load_settings())
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


def _check_output(output: Path, *sources: str) -> None:
    """Refuse an output that cannot work before anything is made for it."""
    if output.is_dir():
        _refuse_output(output, "it is a folder; give the name of a file")
    if output.suffix.lower() != ".mp4":
        _refuse_output(output, "the result is an MP4; give a name that ends in .mp4")
    if os.path.realpath(output) in [os.path.realpath(source) for source in sources]:
        _refuse_output(output, "it is one of the sources, which would be lost")
    folder = next(parent for parent in output.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        _refuse_output(output, f"{folder} is not a folder that you may write to")


def _refuse_output(output: Path, reason: str) -> Never:
    raise InvalidField(f"--output {output}: {reason}.", field="output")


def parse_speaker(text: str) -> str | dict[str, Any]:
    """Turn ``auto``, ``12:320,180`` or ``12:100,80,400,380`` into the request's ``speaker`` value.

    Raises:
        InvalidField: any other text.
    """
    if text == "auto":
        return text
    match = _SPEAKER.fullmatch(text)
    if match is None:
        raise InvalidField(
            f"speaker is {shorten(text)}. Allowed: auto, FRAME:X,Y or FRAME:X1,Y1,X2,Y2.",
            field="speaker",
        )
    numbers = [float(number) for number in match[2].split(",")]
    return {"frame": int(match[1]), "point" if len(numbers) == 2 else "box": numbers}


def _source(medium: str, given: str) -> MediaSource:
    if given.startswith(("http://", "https://")):
        return UrlSource(given, name=medium)
    return PathSource(Path(given), name=medium)


def _with_folders_of(request: RunRequest, settings: Settings) -> Settings:
    """Allow the folders of the given files: whoever types a path here may read it anyway."""
    paths = [
        media.path for media in (request.video, request.audio) if isinstance(media, PathSource)
    ]
    folders = tuple(Path(os.path.realpath(path)).parent for path in paths)
    return settings.model_copy(update={"allowed_roots": settings.allowed_roots + folders})


def _load_settings() -> Settings:
    try:
        return Settings()
    except ValidationError as error:
        _fail(explain(error), exit_code=2)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _log_to_stderr() -> None:
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("latentsync").setLevel(logging.INFO)


@contextmanager
def _errors_as_one_line() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("Stopped; nothing was written.", err=True)
        raise typer.Exit(128 + signal.SIGINT) from None
    except InvalidRequest as error:
        _fail(error.message, exit_code=2)
    except LatentSyncError as error:
        _fail(error.message, exit_code=1)
    except OSError as error:
        _fail(f"--output cannot be written: {error.strerror or error}.", exit_code=1)


def _fail(message: str, *, exit_code: int) -> Never:
    typer.echo(f"Error: {message}", err=True)
    raise typer.Exit(exit_code)


def _print_summary(output: Path, details: PredictDetails) -> None:
    typer.echo(
        f"{output}: {details.duration_s:.2f} s, {details.frames} frames, "
        f"{details.width}x{details.height}, engine {details.engine} {details.model_version}, "
        f"seed {details.seed}"
    )
    if details.frames_without_face:
        typer.echo(f"{details.frames_without_face} frames have no usable face and are unchanged")
    stages = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in details.seconds.items())
    typer.echo(stages)

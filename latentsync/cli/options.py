"""Shared by several commands: options of a run, the output file, one-line errors."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Never

import typer
from pydantic import ValidationError

from latentsync import errors, settings
from latentsync.cli.signals import StoppedBySignal, raised_as_exceptions
from latentsync.schema.engines import NAMES
from latentsync.schema.fields import SyncMode
from latentsync.schema.responses import PredictDetails
from latentsync.schema.run import RunOptions

if TYPE_CHECKING:
    from latentsync.client import Client


_NUMBER = r"\d+(?:\.\d+)?"
_SPEAKER = re.compile(rf"(\d+):({_NUMBER}(?:,{_NUMBER}){{1}}(?:(?:,{_NUMBER}){{2}})?)")
_UNAUTHORIZED, _FORBIDDEN = 401, 403

Video = Annotated[str, typer.Option(help="Source video: a file or an http(s) address.")]
Audio = Annotated[
    str | None,
    typer.Option(help="Speech: a file or an http(s) address; not needed if --segments names all."),
]
SegmentsPath = Annotated[
    Path | None,
    typer.Option(
        "--segments",
        metavar="FILE.json",
        help="Who says what when, for several speakers or recordings: a JSON list such as "
        '[{"audio": "ann.wav", "start_s": 0.5, "speaker": {"frame": 0, "point": [320, 180]}}]; '
        "also end_s and audio_start_s. File names are meant from its folder.",
    ),
]
KeepSound = Annotated[
    bool,
    typer.Option(
        "--keep-sound/--no-keep-sound",
        help="With --segments: keep the sound of the video outside the segments.",
    ),
]
Output = Annotated[Path, typer.Option(help="Where the finished MP4 goes.")]
GuidanceScale = Annotated[float, typer.Option(help="1.0 to 3.0; 1.0 means none.")]
InferenceSteps = Annotated[int, typer.Option(help="1 to 50.")]
Seed = Annotated[int, typer.Option(help="-1 draws a random one.")]
DeadlineS = Annotated[float | None, typer.Option(help="Give up after so many seconds.")]
Engine = Annotated[str | None, typer.Option(help=f"{', '.join(NAMES[:-1])} or {NAMES[-1]}.")]
Scheduler = Annotated[str, typer.Option(help="ddim, or dpm-solver++ for fewer steps.")]
CacheInterval = Annotated[
    int, typer.Option(help="Run the whole network only every so many steps; approximate above 1.")
]
Interval = Annotated[
    tuple[float, float], typer.Option(help="Part of the steps with guidance, 0 to 1.")
]
Mode = Annotated[
    SyncMode | None,
    typer.Option(help="What to do when the lengths differ.", show_default="bounce"),
]
SpeakerText = Annotated[
    str, typer.Option("--speaker", help="auto, FRAME:X,Y or FRAME:X1,Y1,X2,Y2 (pixels).")
]
Url = Annotated[str, typer.Option(envvar=settings.URL_VARIABLE, help="Address of the server.")]
Token = Annotated[
    str,
    typer.Option(help=f"The server's key or token; by default that of {settings.KEY_VARIABLE}."),
]


_DEFAULT = RunOptions()


def run_options(
    *,
    guidance_scale: GuidanceScale = _DEFAULT.guidance_scale,
    inference_steps: InferenceSteps = _DEFAULT.inference_steps,
    seed: Seed = _DEFAULT.seed,
    sync_mode: Mode = None,
    speaker: SpeakerText = "auto",
    deadline_s: DeadlineS = _DEFAULT.deadline_s,
    engine: Engine = _DEFAULT.engine,
    scheduler: Scheduler = _DEFAULT.scheduler,
    feature_cache_interval: CacheInterval = _DEFAULT.feature_cache_interval,
    guidance_interval: Interval = _DEFAULT.guidance_interval,
    keep_sound: KeepSound = _DEFAULT.keep_sound,
) -> dict[str, Any]:
    """Return the options of a run as fields of a request; raises InvalidField."""
    given = {**locals(), "speaker": parse_speaker(speaker)}
    if sync_mode is None:  # whether it was chosen matters where segments begin late
        del given["sync_mode"]
    return given


def with_run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the parameters of :func:`run_options`, whose value it gets as ``options``."""
    own = inspect.signature(command, eval_str=True)
    shared = inspect.signature(run_options, eval_str=True).parameters
    parameters = [one for name, one in own.parameters.items() if name != "options"]

    @wraps(command)
    def wrapped(**given: Any) -> None:
        with errors_as_one_line():
            options = run_options(**{name: given.pop(name) for name in shared})
        command(**given, options=options)

    # Where Typer looks for what to ask on the command line.
    together = own.replace(parameters=[*parameters, *shared.values()])
    wrapped.__signature__ = together  # type: ignore[attr-defined]
    wrapped.__annotations__ = {one.name: one.annotation for one in together.parameters.values()}
    return wrapped


def parse_speaker(text: str) -> str | dict[str, Any]:
    """Turn ``auto``, ``12:320,180`` or ``12:100,80,400,380`` into the request's ``speaker`` value.

    Raises:
        InvalidField: any other text.
    """
    if text == "auto":
        return text
    match = _SPEAKER.fullmatch(text)
    if match is None:
        raise errors.InvalidField(
            f"speaker is {errors.shorten(text)}. Allowed: auto, FRAME:X,Y or FRAME:X1,Y1,X2,Y2.",
            field="speaker",
        )
    numbers = [float(number) for number in match[2].split(",")]
    return {"frame": int(match[1]), "point" if len(numbers) == 2 else "box": numbers}


def check_output(output: Path, *sources: Path | str) -> None:
    """Check the output path before any work is done; raises InvalidField."""
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
    raise errors.InvalidField(f"--output {output}: {reason}.", field="output")


@contextmanager
def errors_as_one_line(*, when_stopped: str = "Stopped; nothing was written.") -> Iterator[None]:
    """End the command with the exit codes of :mod:`latentsync.cli.app` and one line on stderr.

    Args:
        when_stopped: message after Ctrl-C.
    """
    try:
        with raised_as_exceptions(when_stopped):
            yield
    except StoppedBySignal as stopped:
        typer.echo(when_stopped, err=True)
        raise typer.Exit(128 + stopped.number) from None
    except errors.InvalidRequest as error:
        fail(error.message, exit_code=2)
    except errors.LatentSyncError as error:
        fail(error.message, exit_code=1)
    except OSError as error:
        fail(f"--output cannot be written: {error.strerror or error}.", exit_code=1)


def load_settings(*, warn: bool = True) -> settings.Settings:
    """Return the settings of the environment, or end the command with one line.

    Args:
        warn: warn of unknown variables; not needed if the parent process has done so.
    """
    if warn:
        warn_of_unknown_variables()
    try:
        return settings.Settings()
    except ValidationError as error:
        fail(settings.explain(error), exit_code=2)
    except RuntimeError:  # of Path.home(): no HOME, and no entry in the system's list of users
        fail(
            "This user has no home folder: set HOME, or LATENTSYNC_DATA_DIR and "
            "LATENTSYNC_WEIGHTS_DIR.",
            exit_code=2,
        )


def warn_of_unknown_variables() -> None:
    """Print a warning on stderr for each variable that looks like a setting but is not one."""
    for sentence in settings.describe_unknown_variables(os.environ):
        typer.echo(f"Warning: {sentence}", err=True)


@contextmanager
def connected(url: str, token: str, *, timeout_s: float = 900.0) -> Iterator[Client]:
    """Yield a client; explain errors about the address or the key.

    Args:
        url: of the server.
        token: of ``--token``; if it is empty, the environment's is used.
        timeout_s: longest time without a response.

    Raises:
        LatentSyncError: as the client's methods.
    """
    from latentsync.client import Client

    warn_of_unknown_variables()
    key, source = (token, "--token") if token else settings.caller_key(os.environ)
    with Client(url, key or None, timeout_s=timeout_s) as client:
        try:
            yield client
        except errors.ServerError as error:
            if _is_about_the_key(error):
                fail(_explain_refused_key(client.url, error, source), exit_code=1)
            raise
        except errors.Unreachable as error:
            fail(
                f"{error.message} Does the server run, and is its address (--url or "
                f"{settings.URL_VARIABLE}) right?",
                exit_code=1,
            )


def _is_about_the_key(error: errors.ServerError) -> bool:
    # This service never answers a wrong key with 403, but some platforms do.
    is_platforms = error.server_status == _FORBIDDEN and error.server_code == "UNKNOWN"
    return error.server_status == _UNAUTHORIZED or is_platforms


def _explain_refused_key(url: str, error: errors.ServerError, source: str) -> str:
    if not source:
        wanted = f"set {settings.KEY_VARIABLE}, or give --token"
        return f"{url} requires a key: {wanted}. It says: {error.message}"
    others = [
        name for name in settings.CALLER_KEY_VARIABLES if name != source and os.environ.get(name)
    ]
    unused = f" {' and '.join(others)} is set as well, and was not used." if others else ""
    return f"{url} refused the key of {source}. It says: {error.message}{unused}"


def fail(message: str, *, exit_code: int) -> Never:
    """End the command with one line on stderr."""
    typer.echo(f"Error: {message}", err=True)
    raise typer.Exit(exit_code)


def print_summary(output: Path, details: PredictDetails) -> None:
    """Print a summary of the result."""
    typer.echo(f"{output}: {describe(details)}")
    print_details(details)


def print_details(details: PredictDetails) -> None:
    """Print the details that are not in the one-line summary."""
    if details.segments:
        typer.echo(describe_segments(details))
    print_warnings(details)
    typer.echo(describe_stages(details))


def print_warnings(details: PredictDetails) -> None:
    """Print one line for each warning."""
    for warning in details.warnings:
        typer.echo(f"warning: {warning.message}")


def describe(details: PredictDetails) -> str:
    """Return a one-line summary of the result."""
    seed = "" if details.seed is None else f", seed {details.seed}"
    return (
        f"{details.duration_s:.2f} s, {details.frames} frames, {details.width}x{details.height}, "
        f"engine {details.engine} {details.model_version}{seed}"
    )


def describe_segments(details: PredictDetails) -> str:
    """Return the times of the segments in one line."""
    spoken = (f"{one.start_s:.2f} to {one.end_s:.2f} s" for one in details.segments)
    return "segments: " + ", ".join(spoken)


def describe_stages(details: PredictDetails) -> str:
    """Return the seconds of each stage in one line."""
    return ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in details.seconds.items())

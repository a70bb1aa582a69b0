"""``latentsync weights list | pull | verify``. Heavy imports are deferred to the command."""

from __future__ import annotations

import logging
import shutil
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Never
from urllib.parse import urlsplit

import typer

from latentsync.cli.options import load_settings
from latentsync.cli.signals import StoppedBySignal, raised_as_exceptions
from latentsync.errors import LatentSyncError
from latentsync.schema.engines import AUTO, AUTO_ON_GPU, engine_spec
from latentsync.settings import Settings

if TYPE_CHECKING:
    from latentsync.weights.catalog import WeightsFile
    from latentsync.weights.progress import ProgressCallback
    from latentsync.weights.verify import Verdict

commands = typer.Typer(
    help="List, download and verify weights.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_PREFIXES = ("B", "kB", "MB", "GB")
_COLUMNS = 80  # maximum width, also without a terminal
_INDENT = "    "
_SIZE_COLUMNS = len("about 5.07 GB")
_BAR_COLUMNS = 20

Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="NAME|ENGINE", help="Files or engines, as named by `latentsync weights list`."
    ),
]


@commands.command("list")
def list_weights() -> None:
    """List the weights files.

    Shows state, size, licence, engines that need them, and source.
    """
    from latentsync.weights import catalog
    from latentsync.weights.paths import path_of
    from latentsync.weights.verify import state_of

    with _errors_as_one_paragraph():
        settings = load_settings()
        width = max(map(len, catalog.CATALOG))
        _say(f"{'name':{width}}  {'size':{_SIZE_COLUMNS}}  state")
        for file in catalog.CATALOG.values():
            size = ("about " if file.size_tolerance_bytes else "") + _readable(file.size_bytes)
            state = state_of(file, path_of(file, settings)).value
            _say(f"{file.name:{width}}  {size:{_SIZE_COLUMNS}}  {state}")
            needed_by = f"needed by {', '.join(file.needed_by)}"
            _say(f"{needed_by}; licence: {file.licence}", indent=_INDENT)
            _say(f"from {_source(file)}", indent=_INDENT)
        typer.echo()
        _say_path("weights folder", settings.weights_dir)


@commands.command()
def pull(names: Names = None) -> None:
    """Download missing files.

    By default all files of the configured LatentSync engine, and VGG16.
    """
    from latentsync.weights import catalog
    from latentsync.weights.ensure import ensure

    with _errors_as_one_paragraph():
        settings = load_settings()
        wanted = _expand(names or [_engine(settings)], settings)
        with _progress_bars() as show:
            paths = ensure(wanted, settings=settings, on_progress=show, catalog=catalog.CATALOG)
            if not names and settings.fetch_vgg16:
                _pull_vgg16(settings, show)
        for name, path in paths.items():
            _say_path(name, path)


@commands.command()
def verify(names: Names = None) -> None:
    """Verify the checksums of downloaded files.

    The exit code is 1 if any is missing or damaged. By default all downloaded files are read, and
    the files of the configured LatentSync engine are required.
    """
    from latentsync.weights import catalog
    from latentsync.weights.verify import verify as verify_files

    with _errors_as_one_paragraph():
        settings = load_settings()
        needed = _expand(names or [_engine(settings)], settings)
        with _progress_bars() as show:
            verdicts = verify_files(
                needed if names else tuple(catalog.CATALOG),
                settings=settings,
                on_progress=show,
                catalog=catalog.CATALOG,
            )
    for verdict in verdicts:
        _say(f"{verdict.name}: {_judgement(verdict, is_needed=verdict.name in needed)}")
    missing = [one.name for one in verdicts if not one.present and one.name in needed]
    damaged = [one.name for one in verdicts if one.problem]
    found = {"missing": missing, "damaged": damaged}
    if missing or damaged:
        said = "; ".join(f"{what}: {', '.join(which)}" for what, which in found.items() if which)
        pull = " ".join(["latentsync weights pull", *(names or [])])
        _fail(f"{said}. Download with `{pull}`.")


def _engine(settings: Settings) -> str:
    """Return the engine whose files are used by default."""
    has_weights = settings.engine != AUTO and engine_spec(settings.engine).weights
    return settings.engine if has_weights else AUTO_ON_GPU


def _expand(names: list[str], settings: Settings) -> tuple[str, ...]:
    """Replace engine names by the names of their files."""
    from latentsync.weights import catalog

    expanded: list[str] = []
    for name in names:
        expanded += [name] if name in catalog.CATALOG else catalog.weights_for(name, settings)
    return tuple(dict.fromkeys(expanded))


def _pull_vgg16(settings: Settings, show: ProgressCallback) -> None:
    """Download VGG16. No engine reads it, so a failure is only a warning."""
    from latentsync.weights import catalog
    from latentsync.weights.ensure import ensure_vgg16

    try:
        ensure_vgg16(settings, on_progress=show, catalog=catalog.CATALOG)
    except LatentSyncError as error:
        _say(f"Warning: {error} Inference does not need them. {error.__cause__}", err=True)


def _source(file: WeightsFile) -> str:
    from latentsync.weights.catalog import ArchiveMember, HubFile

    source = file.source
    if isinstance(source, HubFile):
        return f"{source.repository}@{source.revision[:7]}"
    urls = (source.url,) if isinstance(source, ArchiveMember) else source.urls
    parts = [urlsplit(url) for url in urls]
    return " or ".join(f"{part.path.rpartition('/')[2]} of {part.hostname}" for part in parts)


def _judgement(verdict: Verdict, *, is_needed: bool) -> str:
    if verdict.present:
        return verdict.problem or "OK"
    return "missing" if is_needed else "not downloaded, not needed"


@contextmanager
def _progress_bars() -> Iterator[ProgressCallback]:
    """Show a progress bar per file, if stderr is a terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TaskID,
        TextColumn,
        TransferSpeedColumn,
    )

    from latentsync.weights.progress import WeightsProgress

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(_BAR_COLUMNS), DownloadColumn())
    tasks: dict[str, TaskID] = {}
    with Progress(
        *columns, TransferSpeedColumn(), console=console, disable=not console.is_terminal
    ) as bars:

        def show(progress: WeightsProgress) -> None:
            if progress.name not in tasks:
                tasks[progress.name] = bars.add_task(progress.name)
            bars.update(
                tasks[progress.name],
                description=f"{progress.name} {progress.phase}",
                completed=progress.done_bytes,
                total=progress.total_bytes,
            )

        yield show


def _readable(size_bytes: int) -> str:
    size = float(size_bytes)
    for prefix in _PREFIXES[:-1]:
        if size < 1000:
            return f"{size:.3g} {prefix}"
        size /= 1000
    return f"{size:.3g} {_PREFIXES[-1]}"


@contextmanager
def _errors_as_one_paragraph() -> Iterator[None]:
    """Exit with the codes of :mod:`latentsync.cli.app` and wrap logged warnings."""
    when_stopped = "Stopped; the next call resumes the download."
    log, handler = logging.getLogger("latentsync"), _WrappedLog(logging.WARNING)
    log.addHandler(handler)
    try:
        with raised_as_exceptions(when_stopped):
            yield
    except StoppedBySignal as stopped:
        typer.echo(when_stopped, err=True)
        raise typer.Exit(128 + stopped.number) from None
    except LatentSyncError as error:
        _fail(error.message)
    except OSError as error:
        _fail(f"{error.filename or 'A file'} cannot be read: {error.strerror or error}.")
    finally:
        log.removeHandler(handler)


class _WrappedLog(logging.Handler):
    """Prints log records wrapped like the commands' own output."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the record to stderr."""
        _say(self.format(record), err=True)


def _fail(message: str) -> Never:
    _say(f"Error: {message}", err=True)
    raise typer.Exit(1)


def _say(text: str, *, indent: str = "", err: bool = False) -> None:
    """Print a paragraph wrapped to the terminal; paths and URLs are not broken."""
    lines = textwrap.wrap(
        text,
        min(_COLUMNS, shutil.get_terminal_size().columns),
        initial_indent=indent,
        subsequent_indent=indent or _INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    )
    typer.echo("\n".join(lines), err=err)


def _say_path(what: str, path: Path) -> None:
    """Print a label and a path. The path may contain blanks, so it is not wrapped."""
    line = f"{what}: {path}"
    fits = len(line) <= min(_COLUMNS, shutil.get_terminal_size().columns)
    typer.echo(line if fits else f"{what}:\n{_INDENT}{path}")

"""``latentsync weights list | pull | verify``. Imports of the work wait for their command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Never
from urllib.parse import urlsplit

import typer
from pydantic import ValidationError

from latentsync.engines import AUTO, AUTO_ON_GPU, engine_spec
from latentsync.errors import LatentSyncError
from latentsync.settings import Settings, explain
from latentsync.signals import StoppedBySignal, raised_as_exceptions

if TYPE_CHECKING:
    from latentsync.weights.catalog import WeightsFile
    from latentsync.weights.errand import ProgressCallback

commands = typer.Typer(
    help="Files of weights: what is here, fetch it, check it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_PREFIXES = ("B", "kB", "MB", "GB")

Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="[NAME|ENGINE]...", help="As listed by `latentsync weights list`."),
]


@commands.command("list")
def list_weights() -> None:
    """Show every file: size, licence, whether it is here, where it comes from."""
    from rich.console import Console
    from rich.table import Table

    from latentsync.weights import catalog
    from latentsync.weights.places import path_of
    from latentsync.weights.stamp import state_of

    with _errors_as_one_line():
        settings = _load_settings()
        table = Table("name", "size", "state", "licence", "needed by", "source", box=None)
        for file in catalog.CATALOG.values():
            about = "about " if file.size_tolerance_bytes else ""
            table.add_row(
                file.name,
                about + _readable(file.size_bytes),
                state_of(file, path_of(file, settings)).value,
                file.licence,
                ", ".join(file.needed_by),
                _source(file),
            )
        piped = not Console().is_terminal  # then rows are not folded
        Console(width=1000 if piped else None).print(table)
        typer.echo(f"\nweights folder: {settings.weights_dir}")


@commands.command()
def pull(names: Names = None) -> None:
    """Fetch what is missing; without a name all that the LatentSync engine needs, and VGG16."""
    from latentsync.weights import catalog
    from latentsync.weights.cold_start import ensure

    with _errors_as_one_line():
        settings = _load_settings()
        has_weights = settings.engine != AUTO and engine_spec(settings.engine).weights
        engine = settings.engine if has_weights else AUTO_ON_GPU
        wanted = _expand(names or [engine], settings)
        with _progress_bars() as show:
            paths = ensure(wanted, settings=settings, on_progress=show, catalog=catalog.CATALOG)
            if not names and settings.fetch_vgg16:
                _pull_vgg16(settings, show)
        for name, path in paths.items():
            typer.echo(f"{name}: {path}")


@commands.command()
def verify(names: Names = None) -> None:
    """Read every byte of what is here; exit code 1 if something is wrong."""
    from latentsync.weights import catalog
    from latentsync.weights.check import verify as verify_files

    with _errors_as_one_line():
        settings = _load_settings()
        wanted = _expand(names, settings) if names else tuple(catalog.CATALOG)
        with _progress_bars() as show:
            verdicts = verify_files(
                wanted, settings=settings, on_progress=show, catalog=catalog.CATALOG
            )
    for verdict in verdicts:
        typer.echo(f"{verdict.name}: {_judgement(verdict.present, verdict.problem)}")
    damaged = [verdict.name for verdict in verdicts if verdict.problem]
    if damaged:
        _fail(f"damaged: {', '.join(damaged)}. Fetch again with `latentsync weights pull`.")


def _expand(names: list[str], settings: Settings) -> tuple[str, ...]:
    """Put an engine's files in the place of its name."""
    from latentsync.weights import catalog

    expanded: list[str] = []
    for name in names:
        expanded += [name] if name in catalog.CATALOG else catalog.weights_for(name, settings)
    return tuple(dict.fromkeys(expanded))


def _pull_vgg16(settings: Settings, show: ProgressCallback) -> None:
    """Fetch VGG16; since no engine reads it, its failure is told and does not count."""
    from latentsync.weights import catalog
    from latentsync.weights.cold_start import ensure_vgg16

    try:
        ensure_vgg16(settings, on_progress=show, catalog=catalog.CATALOG)
    except LatentSyncError as error:
        typer.echo(f"Warning: {error} Inference does not need them. {error.__cause__}", err=True)


def _source(file: WeightsFile) -> str:
    from latentsync.weights.catalog import ArchiveMember, HubFile

    source = file.source
    if isinstance(source, HubFile):
        return f"{source.repository}@{source.revision[:7]}"
    urls = (source.url,) if isinstance(source, ArchiveMember) else source.urls
    parts = [urlsplit(url) for url in urls]
    return " or ".join(f"{part.path.rpartition('/')[2]} of {part.hostname}" for part in parts)


def _judgement(present: bool, problem: str | None) -> str:
    if not present:
        return "not here"
    return problem or "as it should be"


@contextmanager
def _progress_bars() -> Iterator[ProgressCallback]:
    """Show a bar for every file that something is done about, on a terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TaskID,
        TextColumn,
        TransferSpeedColumn,
    )

    from latentsync.weights.errand import WeightsProgress

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
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


def _load_settings() -> Settings:
    try:
        return Settings()
    except ValidationError as error:
        _fail(explain(error), exit_code=2)


@contextmanager
def _errors_as_one_line() -> Iterator[None]:
    when_stopped = "Stopped; what has arrived is kept and continued next time."
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


def _fail(message: str, *, exit_code: int = 1) -> Never:
    typer.echo(f"Error: {message}", err=True)
    raise typer.Exit(exit_code)

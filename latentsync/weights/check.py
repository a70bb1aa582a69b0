"""Reads every byte of the files that are here and compares them with what they should be."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from latentsync.settings import Settings
from latentsync.weights.catalog import CATALOG, Catalog, WeightsFile, look_up
from latentsync.weights.errand import ProgressCallback, WeightsProgress
from latentsync.weights.places import path_of
from latentsync.weights.stamp import (
    State,
    distrust,
    hash_file,
    problem_of,
    read_stamp,
    state_of,
    write_stamp,
)


@dataclass(frozen=True)
class Verdict:
    """What was found of one file; ``problem`` is None where all is well or nothing is there."""

    name: str
    present: bool
    problem: str | None = None
    sha256: str | None = None


def verify(
    names: Iterable[str],
    *,
    settings: Settings,
    check: Callable[[], None] = lambda: None,
    on_progress: ProgressCallback | None = None,
    catalog: Catalog = CATALOG,
) -> list[Verdict]:
    """Hash what is here of these files, whatever their stamps say, and judge it.

    A file whose publisher states no hash is compared with the hash recorded when it came.

    Raises:
        EngineUnavailable: an unknown name.
        OSError: a file cannot be read.
    """

    def verdict(file: WeightsFile) -> Verdict:
        def tell(done_bytes: int) -> None:
            check()
            if on_progress is not None:
                on_progress(WeightsProgress(file.name, "checking", done_bytes, file.size_bytes))

        return _judge(file, settings, tell)

    return [verdict(file) for file in look_up(tuple(names), catalog)]


def _judge(file: WeightsFile, settings: Settings, tell: Callable[[int], None]) -> Verdict:
    path = path_of(file, settings)
    state = state_of(file, path)
    if state in (State.MISSING, State.PARTIAL):
        return Verdict(file.name, present=False)
    if not path.is_file():
        return Verdict(file.name, present=True, problem="it is not a file")
    sha256 = hash_file(path, tell)
    problem = problem_of(file, path, sha256, recorded=read_stamp(path))
    if problem is not None:
        distrust(path)
    elif state is not State.SOUND:
        write_stamp(path, sha256)
    return Verdict(file.name, present=True, problem=problem, sha256=sha256)

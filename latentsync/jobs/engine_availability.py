"""Live workers and the engines that they can run, as each of them has written into the database.

The API process loads no engine, and may run on another machine than its workers.
"""

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from latentsync.jobs.database import host_engines, hosts
from latentsync.jobs.models import SILENCE_S, DeviceMemory
from latentsync.schema.engines import AUTO, EngineSurvey, Obstacle

Surveys = Callable[[], EngineSurvey]


@dataclass(frozen=True)
class LivingWorker:
    """A worker that was heard of lately.

    Attributes:
        name: unique among those that live.
        memory: of its device, as it said last; None without a GPU.
        engines: which ones it can run, as it said last; None for one of an earlier version.
    """

    name: str
    memory: DeviceMemory | None
    engines: EngineSurvey | None = None


def living_workers(engine: sa.Engine, within: sa.Connection | None = None) -> list[LivingWorker]:
    """Return the workers that were heard of lately, by name.

    Args:
        engine: the database of jobs.
        within: with a transaction in which it is asked, if there is one.
    """
    since = time.time() - SILENCE_S
    chosen = (
        sa.select(hosts, host_engines.c.survey)
        .outerjoin(host_engines, host_engines.c.name == hosts.c.name)
        .where(hosts.c.seen_at >= since)
        .order_by(hosts.c.name)
    )
    with nullcontext(within) if within else engine.connect() as connection:
        return [_living(row) for row in connection.execute(chosen)]


def _living(row: sa.Row[Any]) -> LivingWorker:
    used, total = row.memory_used_bytes, row.memory_total_bytes
    return LivingWorker(
        row.name,
        None if total is None else DeviceMemory(used, total),
        None if row.survey is None else EngineSurvey.from_json(row.survey),
    )


@dataclass(frozen=True)
class Availability:
    """Which engines can run at one moment.

    Attributes:
        workers: that are alive.
        surveys: what they, or this process in their place, can run; None for a worker that does
            not say, which may run anything. None at all: it is not known, and nothing is refused.
    """

    workers: int
    surveys: tuple[EngineSurvey | None, ...]

    def obstacle(self, name: str | None) -> Obstacle | None:
        """Return why no worker can run the engine called ``name``; None if one can, or may.

        Args:
            name: as in a request: ``auto``, or None for each worker's default engine, too.
        """
        found = [one if one is None else one.obstacle(name) for one in self.surveys]
        return None if None in found or not found else found[0]

    def require(self, name: str | None) -> None:
        """Raise EngineUnavailable, or a kind of it, if no worker can run the engine."""
        if (found := self.obstacle(name)) is not None:
            raise found.as_error(name or self._known[0].default, self.runnable)

    @property
    def runnable(self) -> list[str]:
        """Names of the engines that a worker can run, as far as is known."""
        names = [name for one in self._known for name in one.runnable]
        return list(dict.fromkeys(names))

    @property
    def defaults(self) -> list[str]:
        """Names of the engines that are taken when a request names none, as far as is known."""
        found = [one for one in self._known if one.obstacle(None) is None]
        names = [one.auto if one.default == AUTO else one.default for one in found]
        return list(dict.fromkeys(name for name in names if name is not None))

    @property
    def _known(self) -> list[EngineSurvey]:
        return [one for one in self.surveys if one is not None]


class EngineAvailability:
    """Answers which engines can run now.

    Args:
        engine: the database of jobs.
        own: surveys this process's machine, where all workers run here with these settings; asked
            while none is alive. None: workers may run anywhere, so while none is alive nothing is
            known.
    """

    def __init__(self, engine: sa.Engine, own: Surveys | None = None) -> None:
        self._engine = engine
        self._own = own

    def now(self, within: sa.Connection | None = None) -> Availability:
        """Return which engines can run.

        Args:
            within: with a transaction in which the database is asked, if there is one.
        """
        living = living_workers(self._engine, within)
        if living:
            return Availability(len(living), tuple(one.engines for one in living))
        return Availability(0, () if self._own is None else (self._own(),))

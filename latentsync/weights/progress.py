"""What every piece of work on a file needs: being told to stop, and telling how far it is."""

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event, Lock
from typing import Literal

from latentsync.monitor import backoff_s

Phase = Literal["waiting", "downloading", "checking", "done"]

_LONGEST_ASKED_S = 60.0  # of a server that names the seconds after which to come again


class Stopped(Exception):
    """The work was told to stop; never leaves this package."""


@dataclass(frozen=True)
class WeightsProgress:
    """How far one file is; ``total_bytes`` is what the catalog or the sender says."""

    name: str
    phase: Phase
    done_bytes: int
    total_bytes: int


ProgressCallback = Callable[[WeightsProgress], None]


@dataclass(frozen=True)
class Retries:
    """How often and after how long a fault of the connection is tried again.

    Attributes:
        tries: faults in a row, without a byte between them, after which it is given up.
        base_s: pause after the first fault; doubles with each further one.
        longest_s: no pause is longer, unless the server asks for it.
    """

    tries: int = 5
    base_s: float = 0.5
    longest_s: float = 8.0

    def pause_s(self, faults: int, asked_s: float | None) -> float:
        """Return the pause in seconds after so many faults in a row."""
        pause_s = backoff_s(faults, first_s=self.base_s, longest_s=self.longest_s)
        return max(pause_s, min(asked_s or 0.0, _LONGEST_ASKED_S))


@dataclass
class DownloadContext:
    """One call that brings files here; shared by its threads."""

    retries: Retries
    stop: Event = field(default_factory=Event)
    _news: dict[str, WeightsProgress] = field(default_factory=dict)
    _guard: Lock = field(default_factory=Lock)

    def check_canceled(self) -> None:
        """Raise Stopped if the work is to end."""
        if self.stop.is_set():
            raise Stopped

    def pause(self, seconds: float) -> None:
        """Wait; raises Stopped as soon as the work is to end."""
        self.stop.wait(seconds)
        self.check_canceled()

    def tell(self, name: str, phase: Phase, done_bytes: int, total_bytes: int) -> None:
        """Note how far a file is; whoever supervises passes it on in its own thread."""
        with self._guard:
            self._news[name] = WeightsProgress(name, phase, done_bytes, total_bytes)

    def drain(self) -> list[WeightsProgress]:
        """Return what was noted since the last call, one entry a file."""
        with self._guard:
            news, self._news = list(self._news.values()), {}
        return news

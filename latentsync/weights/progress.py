"""Progress, retries and cancellation, shared by the downloads of one call."""

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event, Lock
from typing import Literal

from latentsync.monitor import backoff_s

Phase = Literal["waiting", "downloading", "checking", "done"]

_LONGEST_ASKED_S = 60.0  # of a Retry-After header


class Stopped(Exception):
    """The download was canceled; internal to this package."""


@dataclass(frozen=True)
class WeightsProgress:
    """Progress of one file; ``total_bytes`` is the size in the catalog or from the server."""

    name: str
    phase: Phase
    done_bytes: int
    total_bytes: int


ProgressCallback = Callable[[WeightsProgress], None]


@dataclass(frozen=True)
class Retries:
    """When a failed request is retried.

    Attributes:
        tries: consecutive failures, without a byte between them, after which a download fails.
        base_s: longest pause after the first failure; it doubles with each further one.
        longest_s: upper bound of the pauses, unless the server asks for more.
    """

    tries: int = 5
    base_s: float = 0.5
    longest_s: float = 8.0

    def pause_s(self, faults: int, asked_s: float | None) -> float:
        """Return the pause in seconds after so many consecutive failures."""
        pause_s = backoff_s(faults, first_s=self.base_s, longest_s=self.longest_s)
        return max(pause_s, min(asked_s or 0.0, _LONGEST_ASKED_S))


@dataclass
class DownloadContext:
    """State of one call, shared by its threads."""

    retries: Retries
    stop: Event = field(default_factory=Event)
    _latest: dict[str, WeightsProgress] = field(default_factory=dict)
    _guard: Lock = field(default_factory=Lock)

    def check_canceled(self) -> None:
        """Raise Stopped if the call was canceled."""
        if self.stop.is_set():
            raise Stopped

    def pause(self, seconds: float) -> None:
        """Wait; raises Stopped as soon as the call is canceled."""
        self.stop.wait(seconds)
        self.check_canceled()

    def report(self, name: str, phase: Phase, done_bytes: int, total_bytes: int) -> None:
        """Record a file's progress, which the caller's thread fetches with :meth:`drain`."""
        with self._guard:
            self._latest[name] = WeightsProgress(name, phase, done_bytes, total_bytes)

    def drain(self) -> list[WeightsProgress]:
        """Return the latest progress of each file that reported since the last call."""
        with self._guard:
            latest, self._latest = list(self._latest.values()), {}
        return latest

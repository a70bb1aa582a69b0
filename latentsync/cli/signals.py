"""Handling of SIGINT (Ctrl-C) and SIGTERM in commands, from the first import on.

An exception raised in the middle of an import may be swallowed or printed by the importing module.
So by default both signals end the process at once and silently, with the usual exit codes 130 and
143. Commands that have to clean up run that part within :func:`raised_as_exceptions`; ``serve`` and
``worker`` install their own handlers once they run.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

_NUMBERS = (signal.SIGINT, signal.SIGTERM)
_IMPORTING = "<frozen importlib._bootstrap>"

_removals: list[Callable[[], None]] = []


class StoppedBySignal(KeyboardInterrupt):
    """Raised in the main thread by a signal.

    Attributes:
        number: the signal number.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def exit_on_signals() -> None:
    """Exit at once on SIGINT and SIGTERM; call it in the main thread.

    Signals that are ignored at the start stay ignored, as shells do for background processes.
    """
    _handle_with(_exit_at_once)


def before_exit(remove: Callable[[], None]) -> None:
    """Register a function to call, in the main thread, before a signal ends the process."""
    _removals.append(remove)


@contextmanager
def raised_as_exceptions(when_importing: str) -> Iterator[None]:
    """Raise StoppedBySignal within the block, so that it can clean up; a second signal exits.

    Args:
        when_importing: message for stderr if the signal arrives during an import, which exits.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        if _is_importing(frame):
            os.write(2, f"{when_importing}\n".encode())
            _exit_at_once(number, frame)
        exit_on_signals()
        raise StoppedBySignal(number)

    before = {number: signal.getsignal(number) for number in _NUMBERS}
    _handle_with(end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _handle_with(handler: Callable[[int, FrameType | None], None]) -> None:
    for number in _NUMBERS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == _IMPORTING:
            return True
        frame = frame.f_back
    return False


def _exit_at_once(number: int, _frame: FrameType | None) -> NoReturn:
    for remove in _removals:
        remove()
    os._exit(128 + number)

"""The parent's side of the child process that runs jobs on a device."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

DEVICE = (sys.executable, "-m", "latentsync.worker.runner_main")
_EXIT_TIMEOUT_S = 5.0  # after a kill


class RunnerLost(Exception):
    """The child exited or broke the protocol."""


class RunnerProcess:
    """The child process, started when first needed and again after it was lost or killed.

    Args:
        command: starts a process that speaks the protocol of :mod:`latentsync.worker.runner_main`
            over the socket whose number is added as the last argument.
    """

    def __init__(self, command: Sequence[str] = DEVICE) -> None:
        self._command = tuple(command)
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self._received = b""

    def run(self, task: dict[str, Any]) -> None:
        """Pass a task to the process; starts it if it does not run."""
        if self._process is None or self._process.poll() is not None:
            self.kill()
            self._start()
        self._send({"run": task})

    def cancel(self) -> None:
        """Ask the process to stop its run."""
        self._send({"cancel": True})

    def receive(self, timeout_s: float) -> dict[str, Any] | None:
        """Return the next message, or None if none comes in time.

        Raises:
            RunnerLost: the process is gone.
        """
        connection = self._connection
        if connection is None:
            raise RunnerLost
        while b"\n" not in self._received:
            connection.settimeout(timeout_s)
            try:
                more = connection.recv(65536)
            except TimeoutError:
                return None
            except OSError as error:
                raise RunnerLost from error
            if not more:
                raise RunnerLost
            self._received += more
        line, self._received = self._received.split(b"\n", 1)
        return _decode(line)

    def kill(self) -> None:
        """Kill the process and everything that it started."""
        process, self._process = self._process, None
        connection, self._connection = self._connection, None
        self._received = b""
        if connection is not None:
            connection.close()
        if process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(_EXIT_TIMEOUT_S)

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [*self._command, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # a group of its own, so that a kill reaches all of it
            )
        self._connection = ours

    def _send(self, message: dict[str, Any]) -> None:
        if self._connection is None:
            raise RunnerLost
        try:
            self._connection.settimeout(None)
            self._connection.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise RunnerLost from error


def _decode(line: bytes) -> dict[str, Any]:
    try:
        message = json.loads(line)
    except ValueError as error:
        raise RunnerLost from error
    if not isinstance(message, dict):
        raise RunnerLost
    return message

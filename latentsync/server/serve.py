"""The server's process: listens until a stop signal, then ends in order.

uvicorn's log without the secret names of results: to read the log is not to download.

The sockets of a server, opened before anything else of it is started.

They listen at once: an address that is only bound may still be bound, and taken, by another
process. Callers that come before the server is ready wait in the sockets' backlog.
"""

import asyncio
import contextlib
import copy
import errno
import logging
import re
import signal
import socket
from collections.abc import Sequence
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.config import LOGGING_CONFIG

from latentsync.errors import shorten
from latentsync.server.routes.lipsync_queue import RESULTS
from latentsync.server.routes.task_queue import OUTPUTS
from latentsync.server.worker_supervisor import running_worker

_RESULT = re.compile(rf"((?:{OUTPUTS}|{RESULTS})/[^/?]+/)[^?]+")
_PATH = 2  # of a line's values: caller, method, path with query, version, status


class HideResults(logging.Filter):
    """Leaves of a result's address only whose it is: the name drawn for it is the secret."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the line; none is left out."""
        if isinstance(record.args, tuple) and len(record.args) > _PATH:
            values = list(record.args)
            values[_PATH] = _RESULT.sub(r"\1***", str(values[_PATH]))
            record.args = tuple(values)
        return True


def log_config() -> dict[str, Any]:
    """Return how uvicorn logs by default, with :class:`HideResults` on its line for each call."""
    config: dict[str, Any] = copy.deepcopy(LOGGING_CONFIG)
    config["filters"] = {"hide_results": {"()": HideResults}}
    config["loggers"]["uvicorn.access"]["filters"] = ["hide_results"]
    return config


_BACKLOG = 2048  # connections that wait to be accepted; uvicorn's own number
_NOT_HERE = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}  # no such address, or no such protocol


class CannotListen(Exception):
    """The address cannot be listened on; the text is one sentence for whoever named it."""


def listen(host: str, port: int) -> list[socket.socket]:
    """Listen on every address that ``host`` stands for, such as both of ``localhost``.

    Args:
        host: name or address of this machine.
        port: 0 takes a free one, the same for every address.

    Raises:
        CannotListen: the name is unknown, the address is not this machine's, the port is taken or
            needs privileges.
    """
    listeners: list[socket.socket] = []
    absent: OSError | None = None
    try:
        for family, protocol, (ip, number, *rest) in _addresses_of(host, port):
            if listeners:
                number = listeners[0].getsockname()[1]
            try:
                listeners.append(_open(family, protocol, (ip, number, *rest)))
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                absent = error  # a machine without IPv6 still has the other address
        if absent is not None and not listeners:
            raise absent
    except OSError as error:
        for listener in listeners:
            listener.close()
        raise CannotListen(explain(error, host, port)) from error
    return listeners


def explain(error: OSError, host: str, port: int) -> str:
    """Return one sentence on why an address cannot be listened on, and what to do."""
    if isinstance(error, socket.gaierror):
        return f"--host {shorten(host)} cannot be resolved: {error.strerror}."
    if error.errno == errno.EADDRINUSE:
        return (
            f"Port {port} of {host} is in use by another program. "
            "Stop it, or choose another port with --port (0 picks a free one)."
        )
    if error.errno == errno.EACCES:
        return (
            f"Port {port} of {host} requires privileges that this user does not have. "
            "Choose a port from 1024 up with --port."
        )
    if error.errno in _NOT_HERE:
        return (
            f"--host {host} is not an address of this machine. "
            "Use 127.0.0.1 for local calls only, 0.0.0.0 for all interfaces, or one of its own."
        )
    return f"Port {port} of {host} cannot be listened on: {error.strerror}."


def address_of(listener: socket.socket) -> str:
    """Return the http address of a listening socket."""
    host, port = listener.getsockname()[:2]
    return (
        f"http://[{host}]:{port}" if listener.family == socket.AF_INET6 else f"http://{host}:{port}"
    )


def _open(family: int, protocol: int, address: tuple[Any, ...]) -> socket.socket:
    # With the protocol spelled out asyncio turns Nagle's algorithm off.
    listener = socket.socket(family, socket.SOCK_STREAM, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:  # IPv4 has a socket of its own where it is meant
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _addresses_of(host: str, port: int) -> list[tuple[int, int, tuple[Any, ...]]]:
    """Return family, protocol and address of all that a name stands for, each once."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except UnicodeError:  # of what cannot be a name: too long, or a dot too many
        raise socket.gaierror(socket.EAI_NONAME, "it is not a name") from None
    return list(dict.fromkeys((family, protocol, at) for family, _, protocol, _, at in found))


logger = logging.getLogger(__name__)

# Longer than proxies keep an unused connection (60 s), so that it is they who let go of it: the
# other way round a call may meet a connection that is just being closed.
_KEEP_ALIVE_S = 75
_LAST_ANSWERS_S = 10  # after the stop of the runs, for sending what is left to say


class _Server(uvicorn.Server):
    """Stops the application's runs some time after the signal, before connections are cut."""

    def __init__(self, app: FastAPI, *, grace_s: int) -> None:
        limit_s = grace_s + _LAST_ANSWERS_S
        super().__init__(
            uvicorn.Config(
                app,
                log_config=log_config(),
                server_header=False,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=limit_s,
            )
        )
        self._dismiss_listeners = app.state.dismiss_listeners
        self._stop_runs = app.state.stop_runs
        self._grace_s = grace_s

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say where the server listens; uvicorn does not of sockets it is given."""
        await super().startup(sockets)
        for listener in sockets or ():
            url = address_of(listener)
            logger.info("listening on %s (Ctrl-C to stop); API docs at %s/docs", url, url)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End event streams, let requests finish, stop them after the grace time, then end."""
        self._dismiss_listeners()
        stop = asyncio.get_running_loop().call_later(self._grace_s, self._stop_runs)
        await super().shutdown(sockets)
        stop.cancel()


def serve(
    app: FastAPI, *, listeners: Sequence[socket.socket], grace_s: int, with_worker: bool = False
) -> None:
    """Serve until SIGTERM or SIGINT.

    After the signal nothing new is accepted; the running prediction and those in line have
    ``grace_s`` seconds to finish, then they are stopped and answered with 503.

    Args:
        app: what :func:`latentsync.server.app.build_app` returned.
        listeners: what :func:`latentsync.server.serve.listen` returned; closed at the end.
        grace_s: seconds.
        with_worker: keep a worker running beside the server; it ends after the last answer.
    """
    server = _Server(app, grace_s=grace_s)
    # Until uvicorn listens to signals itself, and when it raises them again at its end: nothing may
    # be raised here while a worker is started or stopped.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, server.handle_exit)
    with running_worker() if with_worker else contextlib.nullcontext():
        server.run(sockets=list(listeners))

"""Runs the application with uvicorn: sockets, access log and graceful shutdown.

Sockets are opened before anything else is started, and listen at once: another process could still
listen on an address that is only bound. Early connections wait in the backlog.
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
_PATH = 2  # index in the arguments: client, method, path with query, version, status


class HideResults(logging.Filter):
    """Masks the secret names of results in access logs, so that logs give no access to videos."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Mask the path; all records are kept."""
        if isinstance(record.args, tuple) and len(record.args) > _PATH:
            values = list(record.args)
            values[_PATH] = _RESULT.sub(r"\1***", str(values[_PATH]))
            record.args = tuple(values)
        return True


def log_config() -> dict[str, Any]:
    """Return uvicorn's default log configuration with :class:`HideResults` on the access log."""
    config: dict[str, Any] = copy.deepcopy(LOGGING_CONFIG)
    config["filters"] = {"hide_results": {"()": HideResults}}
    config["loggers"]["uvicorn.access"]["filters"] = ["hide_results"]
    return config


_BACKLOG = 2048  # uvicorn's default
_NO_SUCH_ADDRESS = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}


class CannotListen(Exception):
    """The address cannot be listened on; the message is one sentence for the user."""


def listen(host: str, port: int) -> list[socket.socket]:
    """Listen on all addresses of ``host``, such as IPv4 and IPv6 of ``localhost``.

    Args:
        host: name or address of this machine.
        port: port number; 0 picks a free one, the same for all addresses.

    Raises:
        CannotListen: the host is unknown or not this machine, or the port is in use or requires
            privileges.
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
                if error.errno not in _NO_SUCH_ADDRESS:
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
    """Return one sentence on why an address cannot be listened on, with advice."""
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
    if error.errno in _NO_SUCH_ADDRESS:
        return (
            f"--host {host} is not an address of this machine. "
            "Use 127.0.0.1 for local calls only, 0.0.0.0 for all interfaces, or one of its own."
        )
    return f"Port {port} of {host} cannot be listened on: {error.strerror}."


def address_of(listener: socket.socket) -> str:
    """Return the URL of a listening socket."""
    host, port = listener.getsockname()[:2]
    return (
        f"http://[{host}]:{port}" if listener.family == socket.AF_INET6 else f"http://{host}:{port}"
    )


def _open(family: int, protocol: int, address: tuple[Any, ...]) -> socket.socket:
    # asyncio disables Nagle's algorithm only if the protocol is given explicitly.
    listener = socket.socket(family, socket.SOCK_STREAM, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:  # IPv4 has its own socket
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _addresses_of(host: str, port: int) -> list[tuple[int, int, tuple[Any, ...]]]:
    """Return the distinct families, protocols and addresses of a host name."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except UnicodeError:  # not a valid name: too long, or empty labels
        raise socket.gaierror(socket.EAI_NONAME, "it is not a name") from None
    return list(dict.fromkeys((family, protocol, at) for family, _, protocol, _, at in found))


logger = logging.getLogger(__name__)

# Longer than the idle timeout of proxies (60 s), so that the proxy closes idle connections;
# otherwise it may send a request on a connection that is being closed.
_KEEP_ALIVE_S = 75
_LAST_RESPONSES_S = 10  # for sending the last responses after the runs were stopped


class _Server(uvicorn.Server):
    """Stops the application's runs a grace time after the signal, before connections are closed."""

    def __init__(self, app: FastAPI, *, grace_s: int) -> None:
        limit_s = grace_s + _LAST_RESPONSES_S
        super().__init__(
            uvicorn.Config(
                app,
                log_config=log_config(),
                server_header=False,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=limit_s,
            )
        )
        self._close_streams = app.state.close_streams
        self._stop_runs = app.state.stop_runs
        self._grace_s = grace_s

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and log the addresses, which uvicorn does not do for given sockets."""
        await super().startup(sockets)
        for listener in sockets or ():
            url = address_of(listener)
            logger.info("listening on %s (Ctrl-C to stop); API docs at %s/docs", url, url)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close event streams, let requests finish for the grace time, then stop them."""
        self._close_streams()
        stop = asyncio.get_running_loop().call_later(self._grace_s, self._stop_runs)
        await super().shutdown(sockets)
        stop.cancel()


def serve(
    app: FastAPI, *, listeners: Sequence[socket.socket], grace_s: int, with_worker: bool = False
) -> None:
    """Serve until SIGTERM or SIGINT.

    After the signal no connections are accepted; running and waiting predictions have ``grace_s``
    seconds to finish, then they are stopped and return 503.

    Args:
        app: the application of :func:`latentsync.server.app.build_app`.
        listeners: the sockets of :func:`listen`; closed at the end.
        grace_s: seconds.
        with_worker: also run a worker process, which ends after the last response.
    """
    server = _Server(app, grace_s=grace_s)
    # No exception may interrupt starting or stopping the worker, neither before uvicorn installs
    # its handlers nor when it re-raises signals at its end.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, server.handle_exit)
    with running_worker() if with_worker else contextlib.nullcontext():
        server.run(sockets=list(listeners))

"""The server's process: listens until a stop signal, then ends in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Sequence

import uvicorn
from fastapi import FastAPI

from latentsync.server.access_log import log_config
from latentsync.server.listening import address_of
from latentsync.server.worker_process import running_worker

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
            logger.info("listening on %s (Ctrl-C stops it); %s/docs describes the API", url, url)

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
        listeners: what :func:`latentsync.server.listening.listen` returned; closed at the end.
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

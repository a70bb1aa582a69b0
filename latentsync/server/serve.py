"""The server's process: listens until a stop signal, then ends in order."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket

import uvicorn
from fastapi import FastAPI

from latentsync.server.access_log import log_config
from latentsync.server.worker_process import running_worker

# Longer than proxies keep an unused connection (60 s), so that it is they who let go of it: the
# other way round a call may meet a connection that is just being closed.
_KEEP_ALIVE_S = 75
_LAST_ANSWERS_S = 10  # after the stop of the runs, for sending what is left to say


class _Server(uvicorn.Server):
    """Stops the application's runs some time after the signal, before connections are cut."""

    def __init__(self, app: FastAPI, *, host: str, port: int, grace_s: int) -> None:
        limit_s = grace_s + _LAST_ANSWERS_S
        super().__init__(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                log_config=log_config(),
                server_header=False,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=limit_s,
            )
        )
        self._dismiss_listeners = app.state.dismiss_listeners
        self._stop_runs = app.state.stop_runs
        self._grace_s = grace_s

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End event streams, let requests finish, stop them after the grace time, then end."""
        self._dismiss_listeners()
        stop = asyncio.get_running_loop().call_later(self._grace_s, self._stop_runs)
        await super().shutdown(sockets)
        stop.cancel()


def serve(app: FastAPI, *, host: str, port: int, grace_s: int, with_worker: bool = False) -> None:
    """Serve until SIGTERM or SIGINT.

    After the signal nothing new is accepted; the running prediction and those in line have
    ``grace_s`` seconds to finish, then they are stopped and answered with 503.

    Args:
        app: what :func:`latentsync.server.app.build_app` returned.
        host: address to listen on.
        port: port to listen on; 0 takes a free one, which the log names.
        grace_s: seconds.
        with_worker: keep a worker running beside the server; it ends after the last answer.
    """
    server = _Server(app, host=host, port=port, grace_s=grace_s)
    # Until uvicorn listens to signals itself, and when it raises them again at its end: nothing may
    # be raised here while a worker is started or stopped.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, server.handle_exit)
    with running_worker() if with_worker else contextlib.nullcontext():
        server.run()

"""How the application listens, and how it stops.

A first SIGTERM or SIGINT refuses new requests (503, another replica takes them) while the port stays open, gives those
inside their time, and then closes. A second one ends the process at once, as does a stop that takes too long.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import resource
import signal
import socket
import sys
import threading
from types import FrameType
from typing import NoReturn

import uvicorn
from fastapi import FastAPI

from service.admission import Admission
from service.connections import Limits, guarded
from service.errors import StartupError
from service.settings import Settings

log = logging.getLogger("gram.server")

MAX_HEADER_BYTES = 64 * 1024
BACKLOG = 4096
"""Trainers open a connection for each rollout of a batch at the same moment."""
OPEN_FILES = 65_536
KEEP_ALIVE_S = 65
WRITE_S = 30.0
"""How long a caller may leave its reply unread."""
GRACE_S = 5
"""After the drain time: for replies on their way out. A body's time ends this much later on the connection than in the
application, which says what was wrong."""
HARD_STOP_S = 10.0
"""After the drain time: the process ends, whatever it still waits for."""
CUT_OFF = 1
"""Exit status: requests were still running when the time to drain was over, or nobody waited for them. 0: none was."""


ENGINE_FAILED = 3
"""Exit status: the engine failed, and nothing more is done about it here (`service.recovery`)."""


class Server(uvicorn.Server):
    """uvicorn that drains the application before it stops listening, and that stops when the engine failed for good."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, settings: Settings) -> None:
        super().__init__(config)
        self._app = app
        self._settings = settings
        self._is_stopping = False
        self._drainer: asyncio.Task[None] | None = None

    @property
    def admission(self) -> Admission:
        admission: Admission = self._app.state.gate.admission
        return admission

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._is_stopping:
            stop_hard(f"a second signal ({sig})")
        self._is_stopping = True
        asyncio.get_running_loop().call_soon_threadsafe(self._begin_to_stop)

    async def on_tick(self, counter: int) -> bool:
        """Whether to stop, asked ten times a second."""
        if self.engine_failed and not self._is_stopping:
            self._is_stopping = True
            self._begin_to_stop()
        return await super().on_tick(counter)

    @property
    def engine_failed(self) -> bool:
        """For good: as `recovery.on_failure` and `recovery.max_restarts` have it."""
        return self._app.state.service.health.given_up is not None

    @property
    def status(self) -> int:
        """The process's exit status; asked before the application is closed."""
        if self.engine_failed:
            return ENGINE_FAILED
        return CUT_OFF if self.admission.cut_off else 0

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().serve(sockets)
        finally:  # uvicorn gives the signals back, and the engine is still to be closed
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self.handle_exit)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        port = int(self.servers[0].sockets[0].getsockname()[1])
        print(banner(self._settings, port, self._app), flush=True)

    def _begin_to_stop(self) -> None:
        seconds = self._settings.server.drain_s
        last = threading.Timer(seconds + HARD_STOP_S, stop_hard, ["it took too long"])
        last.daemon = True
        last.start()
        self.admission.drain(seconds)
        self._drainer = asyncio.create_task(self._drain(seconds))

    async def _drain(self, seconds: float) -> None:
        """Wait for those inside; then uvicorn closes the port and what connections there are."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds + GRACE_S / 2):
                await self.admission.drained()
        self.should_exit = True


def stop_hard(reason: str) -> NoReturn:
    """End this process now, and the engine's with it: nobody else would."""
    log.error("stopped by force: %s", reason)
    with contextlib.suppress(ImportError):  # comes with vLLM, whose engine alone has processes of its own
        import psutil

        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.kill()
    sys.stdout.flush()
    os._exit(CUT_OFF)


def raise_file_limit(wanted: int = OPEN_FILES) -> None:
    """Let this process open as many connections as it may: shells allow 1024 where the system allows far more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def bound_socket(host: str, port: int) -> socket.socket:
    """The address, taken before the model loads so that a wrong one is known at once; it does not listen yet.

    Raises `StartupError`.
    """
    listener = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        if listener is not None:
            listener.close()
        raise StartupError(f"Cannot listen on {host}:{port} ({error.strerror}); choose another address.") from error
    return listener


def server_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """How uvicorn listens."""
    server = settings.server
    limits = Limits(
        server.header_timeout_s, server.body_timeout_s + GRACE_S, WRITE_S, MAX_HEADER_BYTES, server.max_connections
    )
    return uvicorn.Config(
        app,
        host=server.host,
        port=server.port,
        http=guarded(limits),
        ws="none",
        lifespan="off",  # driven by `serve`: a failed start is one sentence, and no port is open before the model is
        access_log=False,
        proxy_headers=False,  # nothing here asks where a caller is
        log_config=None,  # its lines look like ours
        log_level="warning",
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,  # the application was drained before
    )


def banner(settings: Settings, port: int, app: FastAPI) -> str:
    """What stands on the terminal once requests are welcome: one request to copy."""
    host = "127.0.0.1" if settings.server.host in ("0.0.0.0", "::") else settings.server.host  # noqa: S104
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    key = " -H 'Authorization: Bearer YOUR-KEY'" if settings.auth.keys else ""
    body = json.dumps({"prompt": "What is 7 + 5?", "response_a": "7 + 5 = 12.", "response_b": "7 + 5 = 13."})
    names = ", ".join(app.state.service.scorer.judges)
    return (
        f"Ready at {url} (judges: {names}; documentation: {url}/docs). Try:\n\n"
        f"  curl -s {url}/compare{key} -H 'Content-Type: application/json' -d '{body}'\n"
    )

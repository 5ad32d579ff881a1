"""A reward service for one run: the real application and its real routes, on a free port of this machine.

It lives in a thread of the run's own process. The trainer waits while the judge judges, so nothing is lost by sharing;
and nothing is left behind when a run is killed, and a run's processor time holds the judge's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn

from service.app import build_app
from service.errors import StartupError
from service.settings import load_settings

READY_S = 300.0


@contextlib.contextmanager
def judge_url(url: str | None, *, engine: str = "transformers", model: Path | None = None) -> Iterator[str]:
    """``url`` itself, or the address of a service started for the length of the block (None: the demo judge).

    Raises `StartupError`.
    """
    if url is not None:
        yield url.rstrip("/")
        return
    logging.getLogger("gram.access").setLevel(logging.WARNING)  # as the service itself has it: no line a request
    settings: dict[str, Any] = {"type": engine} | ({"model": str(model)} if model else {})
    if engine == "transformers":  # the judge's instructions are most of what it reads for answers this short
        settings["reuse_prefixes"] = True
    thread = _Service(settings)
    try:
        yield thread.wait()
    finally:
        thread.end()


class _Service(threading.Thread):
    def __init__(self, engine: dict[str, Any]) -> None:
        super().__init__(daemon=True, name="judge")
        self._engine = engine
        self._ready, self._error = threading.Event(), ""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._server: uvicorn.Server | None = None
        self.start()

    def run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception as error:
            self._error = f"{type(error).__name__}: {error}"
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        app = build_app(load_settings(None, {"engine": self._engine, "store": {"type": "memory"}}))
        async with app.router.lifespan_context(app):
            self._server = uvicorn.Server(uvicorn.Config(app, lifespan="off", access_log=False, log_level="warning"))
            self._ready.set()
            await self._server.serve([self._listener])

    def wait(self) -> str:
        """Its address, once it answers. Requests that come before the loop turns wait in the socket."""
        if not self._ready.wait(READY_S) or self._error:
            raise StartupError(f"The judge did not start ({self._error or f'not ready after {READY_S:g} s'}).")
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def end(self) -> None:
        if self._server is not None:
            self._server.should_exit = True
            self.join(30)
        self._listener.close()

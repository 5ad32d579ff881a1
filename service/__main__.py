"""`python -m service`: serve, check the configuration, write openapi.json, make a key, replay commit logs."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import logging
import resource
import secrets
import signal
import socket
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
import uvloop
from fastapi import FastAPI

from service.app import build_app
from service.auth import hash_key
from service.errors import InvalidInput, StartupError
from service.replay import replay
from service.settings import Settings, load_settings
from service.startup import load_manifest, plan_judges

MAX_HEADER_BYTES = 64 * 1024
BACKLOG = 4096
"""Trainers open a connection for each rollout of a batch at the same moment."""
OPEN_FILES = 65_536
KEEP_ALIVE_S = 65
GC_THRESHOLDS = (20_000, 50, 100)
"""Python's own (700, 10, 10) spends a tenth of this process's time on requests that are still being judged."""
GRACE_S = 5
"""After the drain time: for replies on their way out."""


class Server(uvicorn.Server):
    """uvicorn that tells the application to drain as soon as a signal asks it to stop."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, settings: Settings) -> None:
        super().__init__(config)
        self._app = app
        self._settings = settings

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        drain = self._app.state.gate.admission.drain
        asyncio.get_running_loop().call_soon_threadsafe(drain, self._settings.server.drain_s)
        super().handle_exit(sig, frame)
        self._captured_signals.clear()  # a clean stop ends with status 0, not by the signal

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        port = int(self.servers[0].sockets[0].getsockname()[1])
        print(banner(self._settings, port, self._app), flush=True)


async def serve(settings: Settings) -> None:
    """Start the model, then listen; stop listening, then free the model. Raises `StartupError`."""
    app = build_app(settings)
    with bound_socket(settings.server.host, settings.server.port) as listener:
        async with app.router.lifespan_context(app):
            await Server(server_config(app, settings), app, settings).serve([listener])


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
    return uvicorn.Config(
        app,
        host=settings.server.host,
        port=settings.server.port,
        http="h11",  # bounds the size of headers, which httptools does not
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        lifespan="off",  # driven by `serve`: a failed start is one sentence, and no port is open before the model is
        access_log=False,
        log_level="warning",
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(settings.server.drain_s) + GRACE_S,
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


def main(arguments: list[str] | None = None) -> int:
    """The process's exit status: 0, or 2 for a service that must not start."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except StartupError as error:
        print(f"Cannot start: {error.message}", file=sys.stderr)
        return 2


def _serve(options: argparse.Namespace) -> int:
    settings = load_settings(options.config, _overrides(options))
    _set_up_logging(settings)
    signal.signal(signal.SIGTERM, _interrupt)  # while the model loads; uvicorn takes over later
    gc.set_threshold(*GC_THRESHOLDS)
    raise_file_limit()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(settings))
    except KeyboardInterrupt:
        return 130
    return 0


def _check_config(options: argparse.Namespace) -> int:
    settings = load_settings(options.config, _overrides(options))
    plans = plan_judges(settings, load_manifest(settings))
    judges = ", ".join(f"{plan.name} ({plan.family.name})" for plan in plans)
    print(f"The configuration is good: engine {settings.engine.type}, store {settings.store.type}, judges {judges}.")
    return 0


def _openapi(options: argparse.Namespace) -> int:
    settings = load_settings(None, {"engine": {"type": "fake"}, "store": {"type": "memory"}})
    print(json.dumps(build_app(settings).openapi(), indent=2, sort_keys=True))
    return 0


def _new_key(options: argparse.Namespace) -> int:
    key = secrets.token_urlsafe(32)
    scopes = json.dumps(options.scope or ["score"])
    print(f"# The key, shown only now: {key}\n[[auth.keys]]\nid = {json.dumps(options.id)}")
    print(f'sha256 = "{hash_key(key)}"\nscopes = {scopes}')
    return 0


def _replay(options: argparse.Namespace) -> int:
    try:
        summary = replay(options.files)
    except InvalidInput as error:
        print(error.message, file=sys.stderr)
        return 1
    print("\n".join(summary.lines()))
    return int(options.complete and not summary.complete)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m service", description="Reward scoring service.")
    commands = parser.add_subparsers(required=True)
    for name, run, text in (
        ("serve", _serve, "start the service"),
        ("check-config", _check_config, "read the configuration and say what is wrong with it"),
    ):
        command = commands.add_parser(name, help=text)
        command.set_defaults(run=run)
        command.add_argument("--config", type=Path, help="a TOML file (default: $GRAM_CONFIG)")
        command.add_argument("--host", help="address to listen on (default 127.0.0.1)")
        command.add_argument("--port", type=int, help="port to listen on (default 8000; 0 = any free one)")
        command.add_argument("--engine", choices=["vllm", "remote", "transformers", "fake"])
        command.add_argument("--model", help="checkpoint directory or hub id (default: the demo judge)")
        command.add_argument("--device", choices=["auto", "cpu", "cuda"])
        command.add_argument("--family", help="what the model is, if it carries no judge.json: gram, gram_r2, ..")
        command.add_argument("--store", choices=["sqlite", "memory", "redis"], help="redis: its address is store.url")
    commands.add_parser("openapi", help="print the API description").set_defaults(run=_openapi)
    again = commands.add_parser("replay", help="derive every statistic of commit logs again, bit for bit")
    again.set_defaults(run=_replay)
    again.add_argument("files", nargs="+", type=Path, help="commit logs of all replicas, and queue exports to check")
    again.add_argument("--complete", action="store_true", help="also exit with 1 for gaps and lines that came twice")
    key = commands.add_parser("new-key", help="make a key and the configuration that lets it in")
    key.set_defaults(run=_new_key)
    key.add_argument("--id", required=True)
    key.add_argument("--scope", action="append", choices=["score", "queue", "admin", "metrics"])
    return parser


def _overrides(options: argparse.Namespace) -> dict[str, Any]:
    """The command line in the shape of the settings, without what was not given."""
    engine = {"type": options.engine, "model": options.model, "device": options.device}
    sections = {
        "engine": {name: value for name, value in engine.items() if value is not None},
        "server": {n: v for n, v in (("host", options.host), ("port", options.port)) if v is not None},
        "store": {"type": options.store} if options.store else {},
        "judges": [{"name": options.family, "family": options.family}] if options.family else [],
    }
    return {name: section for name, section in sections.items() if section}


def _set_up_logging(settings: Settings) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("gram.access").setLevel(logging.INFO if settings.server.access_log else logging.WARNING)


def _interrupt(sig: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


# The guard matters: vLLM starts its engine process by importing this module again.
if __name__ == "__main__":
    sys.exit(main())

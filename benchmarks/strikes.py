"""What `benchmarks.faults` does to a running service: each function strikes once, and undoes what must be undone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.processes import Server

STOPPED_S, AWAY_S, SLOW_S = 60.0, 10.0, 20.0


@dataclass(frozen=True, slots=True)
class Target:
    """A service of its own process tree; ``model`` is its checkpoint, ``file`` what its worker looks at."""

    server: Server
    model: Path
    file: Path

    def engine(self) -> list[psutil.Process]:
        """The engine's processes: those that compute."""
        found = []
        for process in self.server.processes()[1:]:
            with contextlib.suppress(psutil.Error):
                if process.name().startswith("VLLM") or "VLLM" in " ".join(process.cmdline()):
                    found.append(process)
        return found


Strike = Callable[[Target], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Kind:
    """``error_s``: every request must have ended, or been refused, so soon; ``ready_s``: readiness be gone so soon."""

    what: str
    strike: Strike
    error_s: float = 5.0
    not_ready_s: float = 5.0


async def kill_core(target: Target) -> None:
    target.server.find("EngineCore").kill()


async def kill_worker(target: Target) -> None:
    target.server.find("Worker").kill()


async def stop_core(target: Target) -> None:
    """SIGSTOP, and SIGCONT after a while."""
    core = target.server.find("EngineCore")
    core.suspend()
    try:
        await asyncio.sleep(STOPPED_S)
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            core.resume()


async def break_weights(target: Target) -> None:
    _order(target, "nan")


async def raise_in_a_batch(target: Target) -> None:
    _order(target, "raise")


def _order(target: Target, fault: str) -> None:
    """Put the file there as a whole: the worker, which looks all the time, would take an empty one for no fault."""
    whole = target.file.with_suffix(".new")
    whole.write_text(fault)
    whole.rename(target.file)


async def kill_as_if_out_of_memory(target: Target) -> None:
    """SIGKILL to the process of the engine that the kernel would choose. No memory is exhausted: what is the kernel's
    is its choice and its signal, and both are these."""
    max(target.engine(), key=_badness).kill()


async def fail_starts(target: Target) -> None:
    """The core is killed while its checkpoint is away: starting again fails until that is back."""
    away = target.model.with_name("away")
    target.model.rename(away)
    try:
        await kill_core(target)
        await asyncio.sleep(AWAY_S)
    finally:
        away.rename(target.model)


async def start_slowly(target: Target) -> None:
    """The core is killed, and what starts in its place is stopped for a while."""
    known = {process.pid for process in target.server.processes()}
    await kill_core(target)
    ends = asyncio.get_running_loop().time() + SLOW_S
    stopped: dict[int, psutil.Process] = {}
    try:
        while asyncio.get_running_loop().time() < ends:
            for process in _new(target.server.processes(), known):
                with contextlib.suppress(psutil.Error):
                    process.suspend()
                    stopped[process.pid] = process
            await asyncio.sleep(0.5)
    finally:
        for process in stopped.values():
            with contextlib.suppress(psutil.Error):
                process.resume()


KINDS: Mapping[str, Kind] = {
    "core": Kind("SIGKILL to the engine's core", kill_core),
    "worker": Kind("SIGKILL to the core's worker", kill_worker),
    "stop": Kind(f"SIGSTOP to the core for {STOPPED_S:.0f} s", stop_core, error_s=STOPPED_S + 10, not_ready_s=35.0),
    "nan": Kind("weights become NaN", break_weights),
    "exception": Kind("a forward pass raises", raise_in_a_batch),
    "memory": Kind("SIGKILL as by the kernel out of memory (simulated)", kill_as_if_out_of_memory),
    "start": Kind(f"SIGKILL, and no checkpoint for {AWAY_S:.0f} s", fail_starts),
    "slow": Kind(f"SIGKILL, and a start that is stopped for {SLOW_S:.0f} s", start_slowly),
}


def _badness(process: psutil.Process) -> int:
    return int(Path(f"/proc/{process.pid}/oom_score").read_text())


def _new(processes: Iterable[psutil.Process], known: set[int]) -> list[psutil.Process]:
    return [process for process in processes if process.pid not in known]

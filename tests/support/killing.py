"""A command of ``python -m training``, killed while it is at work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tests.architecture.source import ROOT

_LOOK_S = 0.05


def work(arguments: Sequence[str], home: Path, most: int | None = None) -> int | None:
    """Run the command, whose files lie under ``home``, and count how often one of them changes: None if it was killed.

    It is killed (SIGKILL) after ``most`` changes. Counting changes, not seconds, a kill falls into the work however
    slow the machine is, and not into the start of the interpreter. Left alone, it must end well.
    """
    log = home.with_name(f"{home.name}.log")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("ab") as out:
        command = [sys.executable, "-m", "training", *arguments]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=out)
    try:
        changes = _watched(process, home, most)
    except BaseException:
        process.kill()
        process.wait()
        raise
    if process.wait() == -signal.SIGKILL:
        return None
    assert process.returncode == 0, log.read_text("utf-8")[-3000:]
    return changes


def _watched(process: subprocess.Popen[bytes], home: Path, most: int | None) -> int:
    before, changes = _files(home), 0
    while process.poll() is None:
        now = _files(home)
        changes += sum(before.get(path) != state for path, state in now.items())
        before = now
        if most is not None and changes >= most:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(_LOOK_S)
    return changes


def _files(home: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file and folder, which the command renames and removes while they are listed."""
    found: dict[str, tuple[int, int]] = {}
    for folder, _, names in os.walk(home):  # passes over a folder that has gone; Path.rglob fails there
        for path in (folder, *(os.path.join(folder, name) for name in names)):
            with suppress(FileNotFoundError):
                state = os.stat(path)
                found[path] = (state.st_size, state.st_mtime_ns)
    return found

"""A child dies with its parent, however that ends, and takes its own children along."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

WORK = """
import multiprocessing
import time


def start(depth):
    multiprocessing.get_context("spawn").Process(target=work, args=(depth,)).start()


def work(depth):
    if depth:
        start(depth - 1)
    print(multiprocessing.current_process().pid, flush=True)
    time.sleep(60)
"""
MAIN = """
import time

from program.work import start
from service.lifeline import spawned_die_with_parent

if __name__ == "__main__":
    spawned_die_with_parent()
    start(1)
    time.sleep(60)
"""


@pytest.mark.slow
@pytest.mark.parametrize("asked", [True, False])
def test_a_killed_parent_leaves_nobody_behind(root: Path, tmp_path: Path, asked: bool) -> None:
    """A package run by ``python -m``, as the service is: multiprocessing does not run its main module in children."""
    package = tmp_path / "program"
    package.mkdir()
    (package / "work.py").write_text(WORK)
    (package / "__main__.py").write_text(MAIN if asked else MAIN.replace("    spawned_die_with_parent()\n", ""))
    environment = {"PYTHONPATH": f"{root}:{tmp_path}"}
    with subprocess.Popen(
        [sys.executable, "-m", "program"], stdout=subprocess.PIPE, text=True, env=environment
    ) as parent:
        assert parent.stdout is not None
        children = [psutil.Process(int(parent.stdout.readline())) for _ in range(2)]
        parent.kill()
        _, left = psutil.wait_procs(children, timeout=10 if asked else 1)
        alive = [child for child in left if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
        for child in alive:
            child.kill()
    assert len(alive) == (0 if asked else 2)

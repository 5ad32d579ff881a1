"""A child dies with its parent, however that ends, and takes its own children along."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

PROGRAM = """
import multiprocessing
import sys
import time

from service.lifeline import die_with_parent


def work(depth):
    die_with_parent()
    if depth:
        start(depth - 1)
    print(multiprocessing.current_process().pid, flush=True)
    time.sleep(60)


def start(depth):
    multiprocessing.get_context("spawn").Process(target=work, args=(depth,)).start()


if __name__ == "__main__":
    start(1)
    time.sleep(60)
"""


@pytest.mark.slow
@pytest.mark.parametrize("asked", [True, False])
def test_a_killed_parent_leaves_nobody_who_asked_for_it(root: Path, tmp_path: Path, asked: bool) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM if asked else PROGRAM.replace("    die_with_parent()\n", ""))
    with subprocess.Popen(
        [sys.executable, str(program)], stdout=subprocess.PIPE, text=True, env={"PYTHONPATH": str(root)}
    ) as parent:
        assert parent.stdout is not None
        children = [psutil.Process(int(parent.stdout.readline())) for _ in range(2)]
        parent.kill()
        _, alive = psutil.wait_procs(children, timeout=10 if asked else 1)
        for child in alive:
            child.kill()
    assert len(alive) == (0 if asked else 2)

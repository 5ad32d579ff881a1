"""Worker processes of a study."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

STUDY = """
import os, sys, time
from pathlib import Path

from training.studies.grid import Unit, run_grid
from training.studies.stage1 import SIZES


def work(unit, setup, folder):
    (folder / f"{unit.seed}.pid").write_text(str(os.getpid()))
    time.sleep(600)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir()
    run_grid([[Unit("arm", "point", seed) for seed in (0, 1)]], work, SIZES["micro"], folder, 2)
"""


@pytest.mark.slow
def test_workers_end_with_a_study_that_is_killed(tmp_path: Path) -> None:
    script, folder = tmp_path / "endless.py", tmp_path / "runs"
    script.write_text(STUDY)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(Path.cwd()), str(tmp_path)))}
    study = subprocess.Popen([sys.executable, str(script), str(folder)], env=environment, stderr=subprocess.DEVNULL)
    try:
        _wait_until(lambda: len(list(folder.glob("*.pid"))) == 2, 60)
        workers = [int(path.read_text()) for path in folder.glob("*.pid")]
    finally:
        study.send_signal(signal.SIGKILL)
        study.wait()
    _wait_until(lambda: not any(map(psutil.pid_exists, workers)), 10)


def _wait_until(holds: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.05)

"""A run that is killed again and again, at moments nobody chose: it leaves what one leaves that was let alone."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from random import Random

import pytest

from tests.support.properties import count, scaled
from tests.support.scripted_selftrain import Scripts, files_of, install, recipe
from training.selftrain.driver import selftrain
from training.selftrain.recipe import SelfTrainRecipe

KILLS = 200
"""The full count, of which a usual run does two in a hundred."""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_killed_at_random_moments_it_ends_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, Scripts())
    whole, broken = recipe(tmp_path, "whole"), recipe(tmp_path, "killed")
    started = time.monotonic()
    selftrain(whole)
    usual = time.monotonic() - started
    rng, killed = Random(os.environ.get("PROPERTY_SEED", "1")), 0
    for _ in range(scaled(KILLS, at_least=4)):
        killed += _killed_after(rng.uniform(0.02, 0.6) * usual, broken)
        count()
    assert killed
    selftrain(broken, resume=True)
    left = {name: data.replace(b"/killed/", b"/whole/") for name, data in files_of(broken.run).items()}
    assert left == files_of(whole.run)


def _killed_after(seconds: float, run: SelfTrainRecipe) -> bool:
    """Goes on with the run in a process of its own; was it killed before it was done?"""
    child = os.fork()
    if child == 0:
        try:
            selftrain(run, resume=True)
        finally:
            os._exit(0)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)

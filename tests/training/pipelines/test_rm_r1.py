"""The whole of RM-R1 in one command: killed wherever the clock stops it, it ends with the same weights."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest

from service.manifest import Manifest
from tests.architecture.source import ROOT
from training.data.pairs import DataError
from training.pipelines.rm_r1 import SIZES, distill_recipe, grpo_recipe
from training.pipelines.steps import Steps

COMMAND = [sys.executable, "-m", "training", "pipeline", "rm-r1", "--size", "tiny", "--directory"]


def start(directory: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (directory.parent / f"{directory.name}.log").open("ab") as log:
        return subprocess.Popen([*COMMAND, str(directory)], cwd=ROOT, env=environment, stdout=log, stderr=log)


def finish(directory: Path) -> dict[str, Any]:
    process = start(directory)
    assert process.wait() == 0, (directory.parent / f"{directory.name}.log").read_text("utf-8")[-3000:]
    report: dict[str, Any] = json.loads((directory / "report.json").read_text("utf-8"))
    return report


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_a_random_point_it_ends_with_the_same_weights(tmp_path: Path) -> None:
    begun = time.monotonic()
    whole = finish(tmp_path / "whole")
    duration = time.monotonic() - begun
    assert whole["traces"]["kept"] > 0
    halted = start(tmp_path / "halted")
    time.sleep(Random().uniform(0.3, 0.9) * duration)
    halted.send_signal(signal.SIGKILL)
    halted.wait()
    again = finish(tmp_path / "halted")
    assert again["grpo"]["weights"] == whole["grpo"]["weights"]
    assert again["distill"]["weights"] == whole["distill"]["weights"]
    assert again["grpo"]["figures"] == whole["grpo"]["figures"]
    manifest = Manifest.load(tmp_path / "halted" / "judge")
    assert manifest is not None and manifest.judges[0].family == "rm_r1"


def test_a_step_is_done_once_and_other_settings_are_refused(tmp_path: Path) -> None:
    counts: list[int] = []

    def work() -> int:
        counts.append(1)
        return len(counts)

    assert Steps(tmp_path, {"seed": 1}).do("first", work) == 1
    assert Steps(tmp_path, {"seed": 1}).do("first", work) == 1
    with pytest.raises(DataError, match="other settings"):
        Steps(tmp_path, {"seed": 2})


@pytest.mark.parametrize("size", SIZES)
def test_the_recipes_are_rm_r1s(size: str, tmp_path: Path) -> None:
    recipe = grpo_recipe(tmp_path, SIZES[size], 1)
    assert (recipe.rollout.group, recipe.rollout.temperature, recipe.objective.kl, recipe.objective.clip) == (
        7,
        1,
        1e-3,
        0.2,
    )
    assert recipe.updates == 2
    assert distill_recipe(tmp_path, SIZES[size], 1).family == "rm_r1"

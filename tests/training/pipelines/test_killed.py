"""Every method in one command: killed again and again wherever it is at work, it leaves what it leaves when let be.

``PIPELINE_SIZE=smoke`` does it at the size people run, once: half an hour for both methods on an idle machine.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from random import Random

import pytest

from tests.support.killing import work
from training.commands.pipeline import METHODS

SIZE = os.environ.get("PIPELINE_SIZE", "tiny")
KILLS = 3 if SIZE == "tiny" else 1
ENDS = {"gram-r2": "run/final/checkpoint/model.safetensors", "rm-r1": "judge/model.safetensors"}


def left_by(directory: Path) -> dict[str, str]:
    """A hash of every file but those about the training itself (states, curves, times)."""
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and not {"runs", "training"} & set(path.relative_to(directory).parts)
    }


@pytest.mark.slow
@pytest.mark.timeout(1800 if SIZE == "tiny" else 7200)
@pytest.mark.parametrize("method", METHODS)
def test_killed_at_random_points_it_leaves_the_same_bytes(method: str, tmp_path: Path) -> None:
    whole, halted = tmp_path / "whole", tmp_path / "halted"
    command = ["pipeline", method, "--size", SIZE, "--directory"]
    changes = work([*command, str(whole)], whole)
    assert changes is not None and changes > 100
    rng = Random(f"{method}/{os.environ.get('PROPERTY_SEED', '1')}")
    killed = [work([*command, str(halted)], halted, rng.randint(1, changes * 2 // 3)) for _ in range(KILLS)]
    assert killed.count(None) >= min(2, KILLS), "it came to its end before it could be killed"
    work([*command, str(halted)], halted)
    assert left_by(halted) == left_by(whole)
    assert ENDS[method] in left_by(whole)
    assert not list(halted.rglob("*.part")), "nothing half made is left"

"""GRAM-R2 in one command: prover, two rounds of self-training, judge (`training.selftrain.pipeline`)."""

from __future__ import annotations

from pathlib import Path

from training.selftrain.pipeline import SIZES as SIZES
from training.selftrain.pipeline import run_pipeline


def run(size: str, directory: Path, seed: int) -> None:
    """Do what is left to be done. Raises what `selftrain` raises."""
    run_pipeline(size, directory, resume=(directory / "run" / "manifest.json").exists(), seed=seed)

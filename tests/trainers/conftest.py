"""Tests with the trainers' own code. `make test` collects those that run in the main environment; the others want one
of their own, which `make test-trainers` makes, and are collected when it names them (TRAINER=verl)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.bad_days import Served, Weather, day_of, serving_through

HERE = Path(__file__).parent
ASKED = os.environ.get("TRAINER")
IN_MAIN = ("trl", "openrlhf")
LONG = ("trl/test_trl_weathers.py", "openrlhf/test_openrlhf_file.py")
"""Only when the trainer is asked for by name: a second per trainer and kind of failure adds up."""

collect_ignore = [
    folder.name for folder in HERE.iterdir() if folder.is_dir() and folder.name not in ((ASKED,) if ASKED else IN_MAIN)
]
if not ASKED:
    collect_ignore += LONG


@pytest.fixture
def service() -> Iterator[Callable[[Weather], Served]]:
    """Starts the service on such a day."""
    with ExitStack() as stack:
        yield lambda weather: stack.enter_context(serving_through(day_of(weather)))

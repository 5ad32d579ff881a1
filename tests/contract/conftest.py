"""Checkpoints for the engine contract (written only when a real engine asks), open stores for the store contract."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.queue_bench import Bench, opened
from tests.support.stores import BACKENDS, Backend

if TYPE_CHECKING:
    from tests.support.tiny_model import TinyCheckpoints


@pytest.fixture(scope="session")
def tiny_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> TinyCheckpoints:
    from tests.support.tiny_model import write_tiny_checkpoints  # loads torch, which the fake engines need not

    return write_tiny_checkpoints(tmp_path_factory.getbasetemp() / "tiny-checkpoints")


@pytest.fixture(params=BACKENDS, ids=lambda backend: backend.name)
def backend(request: pytest.FixtureRequest) -> Backend:
    chosen: Backend = request.param
    return chosen


@pytest.fixture
def bench(backend: Backend, tmp_path: Path) -> Iterator[Bench]:
    with opened(backend, tmp_path) as bench:
        yield bench

"""Checkpoints for tests of the real engines; written only when one asks for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.tiny_model import TinyCheckpoints


@pytest.fixture(scope="session")
def tiny_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> TinyCheckpoints:
    from tests.support.tiny_model import write_tiny_checkpoints  # loads torch, which the fake engines need not

    return write_tiny_checkpoints(tmp_path_factory.getbasetemp() / "tiny-checkpoints")

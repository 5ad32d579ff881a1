"""What every test may lean on. Fixtures that only one folder needs live in that folder's conftest."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Generator
from pathlib import Path

import hypothesis.core
import pytest

from tests.support.properties import counted

# Set before any test imports a library that reads it: no test may reach for a model hub or phone home.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

# A suite that a script starts in the background is told to ignore Ctrl-C and would hand that down to every command it
# starts, so that none of them could be interrupted.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Scale of the property tests; `tests/support/properties.py` says what it multiplies."""
    parser.addoption("--property-scale", type=float, help="property tests run 2 %% of their full counts times this")


def pytest_configure(config: pytest.Config) -> None:
    """Before any test module reads it; through the environment, so that worker processes see it as well."""
    scale = config.getoption("--property-scale")
    if scale is not None:
        os.environ["PROPERTY_SCALE"] = str(scale)
    if config.option.hypothesis_seed is None:  # set in the option too: worker processes inherit options
        config.option.hypothesis_seed = hypothesis.core.global_force_seed = random.getrandbits(32)


def pytest_report_header(config: pytest.Config) -> str:
    """Printed by every run, so that any of them can be repeated."""
    scale = os.environ.get("PROPERTY_SCALE", "1")
    return f"property tests: scale {scale}, --hypothesis-seed={config.option.hypothesis_seed}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Note how many examples of properties the test ran; JUnit reports carry it."""
    before = counted()
    try:
        yield
    finally:
        item.user_properties.append(("examples", counted() - before))


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository root; tests run on the checkout, never on an installed copy."""
    return ROOT

"""What every test may lean on. Fixtures that only one folder needs live in that folder's conftest."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Set before any test imports a library that reads it: no test may reach for a model hub or phone home.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

ROOT = Path(__file__).resolve().parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Scale of the property tests; `tests/support/properties.py` says what it multiplies."""
    parser.addoption("--property-scale", type=float, help="property tests run 2 %% of their full counts times this")


def pytest_configure(config: pytest.Config) -> None:
    """Before any test module reads it; through the environment, so that worker processes see it as well."""
    scale = config.getoption("--property-scale")
    if scale is not None:
        os.environ["PROPERTY_SCALE"] = str(scale)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository root; tests run on the checkout, never on an installed copy."""
    return ROOT

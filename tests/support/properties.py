"""How many examples a property test runs: a small share by default, all of them in a soak.

A property names its full count. ``pytest --property-scale S`` (or ``PROPERTY_SCALE=S``) runs 2 % of it times S, so the
default of 1 is a few seconds and 50 is everything. Every run starts from one seed, printed in its header:
``--hypothesis-seed`` repeats it. What was run is counted; `tests/conftest.py` notes it beside each test's result.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, settings

VARIABLE = "PROPERTY_SCALE"
SHARE = 0.02
_counted = [0]


def scaled(full_count: int, at_least: int = 5) -> int:
    """The number of examples to run of `full_count`."""
    return max(at_least, math.ceil(full_count * SHARE * float(os.environ.get(VARIABLE, "1"))))


def examples(full_count: int) -> int:
    """The number of examples to run of `full_count`, at least 5."""
    return scaled(full_count)


def count(more: int = 1) -> None:
    """Note that so many examples ran, for properties that are not hypothesis's."""
    _counted[0] += more


def counted() -> int:
    """Examples noted so far in this process."""
    return _counted[0]


@dataclass(frozen=True)
class Bar:
    """The decorator of a hypothesis test: its settings, and a count of every example."""

    settings: settings

    def __call__(self, test: Callable[..., Any]) -> Callable[..., Any]:
        handle: Any = test.hypothesis  # type: ignore[attr-defined]  # the documented way to wrap what `given` runs
        inner = handle.inner_test

        @functools.wraps(inner)
        def one(*args: Any, **kwargs: Any) -> Any:
            count()
            return inner(*args, **kwargs)

        handle.inner_test = one
        return self.settings(test)


def bar(full_count: int, **more: Any) -> Bar:
    """Decorates a property whose full count is `full_count`. No deadline: test machines are shared."""
    quiet = [HealthCheck.too_slow, HealthCheck.data_too_large]
    wanted = {"max_examples": examples(full_count), "deadline": None, "suppress_health_check": quiet}
    return Bar(settings(**(wanted | more)))

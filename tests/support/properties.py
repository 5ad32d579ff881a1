"""How many examples a property test runs: a small share by default, all of them in a soak.

A property names its full count. ``pytest --property-scale S`` (or ``PROPERTY_SCALE=S``) runs 2 % of it times S, so the
default of 1 is a few seconds and 50 is everything. A failing example is printed with the seed that repeats it.
"""

from __future__ import annotations

import math
import os
from typing import Any

from hypothesis import HealthCheck, settings

VARIABLE = "PROPERTY_SCALE"
SHARE = 0.02


def examples(full_count: int) -> int:
    """The number of examples to run of `full_count`, at least 5."""
    return max(5, math.ceil(full_count * SHARE * float(os.environ.get(VARIABLE, "1"))))


def bar(full_count: int, **more: Any) -> settings:
    """Hypothesis settings of a property whose full count is `full_count`. No deadline: test machines are shared."""
    quiet = [HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=examples(full_count), deadline=None, suppress_health_check=quiet, **more)

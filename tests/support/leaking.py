"""The service with a leak planted in it: ``python -m tests.support.leaking serve ...`` keeps some of every request."""

from __future__ import annotations

import os
import sys

from service.__main__ import main
from service.metrics import Metrics, Observation

LEAK_BYTES = 64 * 1024

_kept: list[bytes] = []
_record = Metrics.record


def _forgetting_nothing(self: Metrics, seen: Observation) -> None:
    _kept.append(os.urandom(LEAK_BYTES))
    _record(self, seen)


if __name__ == "__main__":
    Metrics.record = _forgetting_nothing  # type: ignore[method-assign]
    sys.exit(main())

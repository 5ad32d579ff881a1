"""An event loop whose clock jumps: nothing to do until a timer is due means that it is due now. Hours pass in no time,
and always in the same order."""

from __future__ import annotations

import asyncio
import selectors
from typing import Any


class _Jumping(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    """Instead of sleeping until the next timer, moves the loop's clock there."""

    skipped = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready and timeout is not None:
            self.skipped += timeout
        elif not ready:
            ready = super().select(None)  # no timer at all: only another thread can wake the loop
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """``time`` stands still while anything runs."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return 1000.0 + self._jumping.skipped

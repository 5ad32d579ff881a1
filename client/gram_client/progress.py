"""A line that says how far a long command is: rewritten on a terminal, a line now and then in a log."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TextIO

BAR = 24
REDRAW_S = 0.1
LOG_S = 15.0


class Progress:
    """Counts rows of `total`; `already` of them were there before this run, and say nothing about its speed.

    Without a stream nothing is shown.
    """

    def __init__(
        self,
        total: int,
        already: int,
        stream: TextIO | None,
        clock: Callable[[], float] = time.monotonic,
        noun: str = "rows",
    ) -> None:
        self._total, self._already, self._noun = total, already, noun
        self._stream, self._clock = stream, clock
        self._terminal = stream is not None and stream.isatty()
        self._started = self._shown = clock()
        self.done = already
        self.failed = 0

    def advance(self, rows: int, failed: int = 0) -> None:
        self.done += rows
        self.failed += failed
        now = self._clock()
        if now - self._shown >= (REDRAW_S if self._terminal else LOG_S):
            self._shown = now
            self._write(self.line(now))

    def line(self, now: float | None = None) -> str:
        """As it stands: bar, rows, speed, what is left, failures."""
        seconds = max(1e-9, (self._clock() if now is None else now) - self._started)
        rate = (self.done - self._already) / seconds
        filled = BAR * self.done // max(1, self._total)
        left = f"{_clock((self._total - self.done) / rate)} left" if rate and self.done < self._total else "done"
        failed = f"  {self.failed} failed" if self.failed else ""
        bar = "#" * filled + "." * (BAR - filled)
        return f"[{bar}] {self.done}/{self._total} {self._noun}  {rate:.1f}/s  {left if rate else 'waiting'}{failed}"

    def close(self) -> None:
        """Leave the last state standing."""
        self._write(self.line(), last=True)

    def _write(self, line: str, last: bool = False) -> None:
        if self._stream is None:
            return
        end = "\n" if last or not self._terminal else ""
        self._stream.write((f"\r{line}\x1b[K" if self._terminal else line) + end)
        self._stream.flush()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"

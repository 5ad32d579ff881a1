"""An event loop that must not be blocked, watched from a thread that names whoever blocks it.

The loop sets a mark every few milliseconds. Where marks stay away the thread looks at what the loop's thread is doing:
computing, by its processor time, which other programs on a busy machine cannot use up; or sitting in one call that
waits - a sleep, a file, a lock - by finding the same frame every time while the system says that it sleeps. asyncio's
own debug mode times callbacks by the clock, names the coroutine and not the line, and does not exist for uvloop.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

BEAT_S = 0.005
SAMPLES = 4
"""How often one frame must be seen before a wait is blamed on it."""
WAITING = frozenset({"select", "poll"})
"""Where a loop with nothing to do sits."""


@dataclass(frozen=True, slots=True)
class Block:
    """The loop stood still for ``seconds`` or more in ``where`` ("file:line function"), reached by ``stack``."""

    seconds: float
    kind: str
    where: str
    stack: str


@dataclass
class LoopWatch:
    """Looks at one loop until stopped. ``blocks`` has one entry for each time it was blocked for ``limit_s``."""

    limit_s: float
    blocks: list[Block] = field(default_factory=list)

    def start(self) -> None:
        """Called on the loop's own thread."""
        self._loop = asyncio.get_running_loop()
        thread = threading.current_thread()
        assert thread.ident is not None
        self._ident, self._clock = thread.ident, time.pthread_getcpuclockid(thread.ident)
        self._state = Path(f"/proc/self/task/{thread.native_id}/stat")
        self._over = threading.Event()
        self._beat()
        self._thread = threading.Thread(target=self._look, name="loop watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """The blocks are complete afterwards."""
        self._over.set()
        self._timer.cancel()
        self._thread.join()

    def _beat(self) -> None:
        self._mark = (time.monotonic(), time.clock_gettime(self._clock))
        self._timer = self._loop.call_later(BEAT_S, self._beat)

    def _look(self) -> None:
        blamed, seen = None, list[tuple[object, int]]()
        while not self._over.wait(BEAT_S):
            mark = self._mark
            frame = sys._current_frames().get(self._ident)
            if frame is None or mark is blamed:
                continue
            wall, busy = time.monotonic() - mark[0], time.clock_gettime(self._clock) - mark[1]
            seen = [*seen, (frame.f_code, frame.f_lasti)] if wall >= self.limit_s / 2 and self._sleeps() else []
            asleep = len(seen) >= SAMPLES and len(set(seen)) == 1 and frame.f_code.co_name not in WAITING
            if busy >= self.limit_s or (asleep and wall >= self.limit_s):
                kind = "computing" if busy >= self.limit_s else "waiting"
                self.blocks.append(_block(max(busy, wall if asleep else 0.0), kind, frame))
                blamed = mark
            del frame

    def _sleeps(self) -> bool:
        """Whether the system says that the loop's thread waits for something."""
        return self._state.read_text().rpartition(")")[2].split()[0] in "SD"


def _block(seconds: float, kind: str, frame: FrameType) -> Block:
    where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_name}"
    return Block(seconds, kind, where, "".join(traceback.format_stack(frame)))


@asynccontextmanager
async def never_blocked(limit_s: float = 0.25) -> AsyncIterator[LoopWatch]:
    """Fails where the running loop was blocked for so long, and says by what."""
    watch = LoopWatch(limit_s)
    watch.start()
    try:
        yield watch
    finally:
        watch.stop()
    found = "\n".join(f"{b.kind} for {b.seconds:.2f} s or more in {b.where}\n{b.stack}" for b in watch.blocks)
    assert not watch.blocks, f"the event loop was blocked:\n{found}"

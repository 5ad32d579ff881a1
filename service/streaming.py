"""Rationales as they are written: the same judgment as `judgment.py` drives, with its text forwarded piece by piece."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from itertools import islice

from service.aggregation import Slot, vote_slots
from service.engines.base import EngineRequest, TextDelta
from service.errors import InternalError
from service.judge import Judge
from service.judgment import Ask, TextMemo, judgment, prepare
from service.types import Comparison, Completion, Order, Verdict


@dataclass(frozen=True, slots=True)
class RationaleText:
    """A piece of one rationale; ``order`` is the caller's (ab = the caller's first response was shown first)."""

    order: Order
    vote: int
    text: str


async def stream_judgment(
    judge: Judge, comparison: Comparison, ask: Ask
) -> AsyncGenerator[RationaleText | Verdict, None]:
    """Drive one judgment, yielding rationale text as the engine writes it and the verdict last.

    Raises what `judgment` raises. Closing the iterator aborts what is still in the engine.
    """
    prepared = await asyncio.to_thread(prepare, judge, comparison, TextMemo())
    steps = judgment(judge, prepared, ask)
    slots = vote_slots(ask.votes)
    try:
        asks = next(steps)
        while True:
            if asks[0].task == "generate":
                completions: list[Completion] = []
                async for piece in _write(judge, asks, list(islice(slots, len(asks))), prepared.swapped):
                    if isinstance(piece, RationaleText):
                        yield piece
                    else:
                        completions = piece
            else:
                completions = list(await asyncio.gather(*(judge.engine.complete(request) for request in asks)))
            asks = steps.send(completions)
    except StopIteration as done:
        verdict: Verdict = done.value
    yield verdict


async def _write(
    judge: Judge, asks: Sequence[EngineRequest], slots: Sequence[Slot], swapped: bool
) -> AsyncIterator[RationaleText | list[Completion]]:
    """Merge the text of concurrent generations in the order it appears; yields all completions as the last item."""
    pieces: asyncio.Queue[RationaleText | None] = asyncio.Queue()

    async def write_one(request: EngineRequest, slot: Slot) -> Completion:
        try:
            async for piece in judge.engine.stream(request):
                if isinstance(piece, TextDelta):
                    await pieces.put(RationaleText(_callers_order(slot[0], swapped), slot[1], piece.text))
                else:
                    return piece
        finally:
            await pieces.put(None)
        raise InternalError("The engine ended a stream without its completion; report this with the request id.")

    writers = [asyncio.ensure_future(write_one(request, slot)) for request, slot in zip(asks, slots, strict=True)]
    try:
        left = len(writers)
        while left:
            piece = await pieces.get()
            if piece is None:
                left -= 1
            else:
                yield piece
        yield list(await asyncio.gather(*writers))
    finally:
        for writer in writers:
            writer.cancel()


def _callers_order(order: Order, swapped: bool) -> Order:
    if not swapped:
        return order
    return "ba" if order == "ab" else "ab"

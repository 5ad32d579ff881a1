"""OpenRLHF's own rollout clients, a program of its own: many `SingleTurnAgentExecutor`s with an engine that generates
what it is told to.

The first answer is the version of OpenRLHF; then each `Job` becomes the rewards that its rollouts got, in order.
Generation and tokenizer are stand-ins (a character is a token); everything between the generated tokens and the
trainer's reward is OpenRLHF's code.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

from benchmarks.rollouts import Job, Rewarded, Rollout


class Tokenizer:
    """A character is a token; special tokens are spelled out, as OpenRLHF decodes them."""

    def __call__(self, text: str, add_special_tokens: bool, return_tensors: str) -> dict[str, torch.Tensor]:
        return {"input_ids": torch.tensor([[ord(character) for character in text]])}

    def decode(self, ids: Sequence[int], skip_special_tokens: bool) -> str:
        return "".join(map(chr, ids))


class Policy:
    """An engine that generates one response."""

    def __init__(self, response: str) -> None:
        self._response = response

    async def generate(self, ids: list[int], params: Any, multi_modal_data: Any = None) -> Any:
        await asyncio.sleep(0)
        tokens = [ord(character) for character in self._response]
        return SimpleNamespace(
            outputs=[SimpleNamespace(token_ids=tokens, finish_reason="stop", logprobs=None, text=self._response)]
        )


def executor_class() -> Any:
    """OpenRLHF's executor. The library that its grader of mathematics needs is not installed and not used."""
    latex = ModuleType("pylatexenc")
    latex.latex2text = ModuleType("latex2text")  # type: ignore[attr-defined]
    sys.modules.setdefault("pylatexenc", latex)
    from openrlhf.utils.agent import SingleTurnAgentExecutor

    return SingleTurnAgentExecutor


async def run(job: Job) -> tuple[list[Rewarded], float]:
    """Rewards in the order of the rollouts, and the seconds it took."""
    found: list[Rewarded | None] = [None] * len(job.rollouts)
    left = iter(enumerate(job.rollouts))
    build = executor_class()

    async def client() -> None:
        executor = build(list(job.urls))
        for place, rollout in left:
            found[place] = await _rewarded(executor, rollout, job.max_length)

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(job.clients)))
    return [one for one in found if one is not None], time.perf_counter() - started


async def _rewarded(executor: Any, rollout: Rollout, max_length: int) -> Rewarded:
    params = SimpleNamespace(max_tokens=len(rollout.response), logprobs=None)
    output = await executor.execute(
        rollout.prompt, rollout.label, params, max_length, Tokenizer(), Policy(rollout.response)
    )
    return Rewarded(output["reward"], output["scores"], output["extra_logs"])


def main() -> None:
    pipe = Connection(int(sys.argv[1]))
    executor_class()
    pipe.send(importlib.metadata.version("openrlhf"))
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        pipe.send(asyncio.run(run(job)))


if __name__ == "__main__":
    main()

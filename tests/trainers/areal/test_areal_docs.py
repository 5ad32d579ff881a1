"""docs/trainers/areal.md: AReaL's own RLVR workflow as the page makes it, with one rollout of a scripted engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from areal.api import ModelResponse
from areal.api.cli_args import GenerationHyperparameters
from areal.api.reward_api import AsyncRewardWrapper

from tests.architecture.documents import code_blocks
from tests.support.bad_days import UNJUDGEABLE, Served, Weather
from tests.support.tiny_policy import tiny_policy


@pytest.mark.parametrize("number", [0, 1])
def test_the_workflows_of_the_page(
    service: Callable[[Weather], Served], root: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    url = service("healthy").url
    monkeypatch.setenv("GRAM_CLIENT_URL", url)
    found: dict[str, Any] = {}
    block = code_blocks(root / "docs/trainers/areal.md", "python")[number]
    exec(compile(block.replace("http://127.0.0.1:8000", url), "areal.md", "exec"), found)
    _, tokenizer = tiny_policy()
    workflow = found["workflow"](GenerationHyperparameters(max_new_tokens=4), tokenizer)

    async def agenerate(request: Any) -> ModelResponse:
        output = [*tokenizer.encode("5"), tokenizer.eos_token_id]
        count = len(output)
        return ModelResponse(
            input_tokens=request.input_ids,
            output_tokens=output,
            output_logprobs=[0.0] * count,
            output_versions=[0] * count,
            tokenizer=tokenizer,
        )

    def episode(question: str) -> Any:
        row = {"messages": [{"role": "user", "content": question}], "reference": "five"}
        return asyncio.run(workflow.arun_episode(SimpleNamespace(agenerate=agenerate), row))

    try:
        assert 0 < float(episode("What is 2 + 3?")["rewards"][0]) < 1
        with pytest.raises(Exception, match="non-finite"):  # AReaL's executor rejects the trajectory of a raised one
            episode(UNJUDGEABLE)
    finally:
        AsyncRewardWrapper._atexit_shutdown_all()

"""Engines for offline work, and the judges of a checkpoint on one: started, tested, and closed at the end.

Which engine: `vllm` for anything large and on every GPU; `transformers` for smoke runs on a CPU, where it starts in a
second instead of half a minute (docs/generation.md has the figures). Both repeat a seeded text whatever else they work
on, in float32 on a CPU to the last bit; on a GPU answers may differ in the last digits from run to run, and then a
resumed file is valid but not byte for byte the same.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import httpx
import torch
from transformers import AutoConfig

from service.engines.base import Engine, fingerprint_weights
from service.errors import StartupError
from service.scoring import Scorer
from service.settings import Settings, load_settings
from service.startup import (
    JudgePlan,
    build_judges,
    engine_fields,
    load_manifest,
    load_tokenizer,
    plan_judges,
    self_test,
)
from training.generation.judging import LocalJudge
from training.generation.served import ServedJudge

Kind = Literal["vllm", "transformers", "fake"]
ROWS = 8
"""Texts that the transformers engine writes together: on two cores more gain little."""


@asynccontextmanager
async def offline_engine(checkpoint: Path | str, kind: Kind = "transformers", **options: Any) -> AsyncIterator[Engine]:
    """A started engine on a checkpoint that takes seeds and likelihoods; ``options`` are further ones of its own.

    Raises `service.errors.StartupError`.
    """
    engine = _engine(str(checkpoint), kind, options)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()


@asynccontextmanager
async def open_judge(
    checkpoint: Path | str,
    judge: str | None = None,
    kind: Kind = "transformers",
    *,
    family: str | None = None,
    **options: Any,
) -> AsyncIterator[LocalJudge]:
    """The checkpoint's judge of that name (or its first), on an engine of its own.

    ``family`` is for a checkpoint without judge.json. Raises `service.errors.StartupError`, also for an unknown name.
    """
    engine = {"type": kind} if kind == "fake" else {"type": kind, "model": str(checkpoint)}
    judges = [{"name": judge or family, "family": family}] if family else []
    settings = load_settings(None, {"engine": engine, "judges": judges})
    manifest = load_manifest(settings)
    plans = plan_judges(settings, manifest)
    chosen = next((plan for plan in plans if judge in (None, plan.name)), None)
    if chosen is None:
        names = ", ".join(plan.name for plan in plans)
        raise StartupError(f"{checkpoint} has no judge {judge}; it has {names}.")
    fields = engine_fields(settings, plans, manifest)
    options = {name: fields[name] for name in ("adapters", "runner") if name in fields} | options
    async with offline_engine(checkpoint, kind, **options) as started:
        scorer = await judges_on(started, settings, [chosen])
        yield LocalJudge(scorer.judges[chosen.name])


@asynccontextmanager
async def served_judge(url: str, judge: str | None = None, key: str | None = None) -> AsyncIterator[ServedJudge]:
    """A judge of a running service that writes rationales (`POST /rationale`). Raises `GenerationError`."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with httpx.AsyncClient(
        base_url=url, headers=headers, timeout=httpx.Timeout(10.0, read=None, pool=None)
    ) as client:
        yield await ServedJudge.connect(client, judge)


async def judges_on(engine: Engine, settings: Settings, plans: Sequence[JudgePlan]) -> Scorer:
    """Judges on a started engine, each of which got its checkpoint's own pair right. Raises `StartupError`."""
    scorer = Scorer(await build_judges(plans, engine, await load_tokenizer(settings)))
    await self_test(scorer, plans)
    return scorer


def _engine(model: str, kind: Kind, options: dict[str, Any]) -> Engine:
    """Weights are named by their bytes, not by judge.json: a stage may keep the version it began with."""
    if kind == "fake":
        from service.engines.fake import FakeEngine, FakeOptions

        return FakeEngine(FakeOptions(**options))
    options = {"weight_version": fingerprint_weights(model)} | options
    if kind == "transformers":
        from service.engines.transformers import TransformersEngine, TransformersOptions

        defaults: dict[str, Any] = {"rows": ROWS}
        return TransformersEngine(TransformersOptions(model, **(defaults | options)))
    from service.engines.vllm import VllmEngine, VllmOptions

    return VllmEngine(VllmOptions(model, **(_vllm_defaults(model, options) | options)))


def _vllm_defaults(model: str, options: dict[str, Any]) -> dict[str, Any]:
    """On a CPU float32 and prompts that are never split over steps: what makes seeds safe and texts repeat."""
    if torch.cuda.is_available():
        return {}
    length = options.get("max_model_len") or AutoConfig.from_pretrained(model).max_position_embeddings
    return {
        "dtype": "float32",
        "chunked_prefill": False,
        "max_num_batched_tokens": max(4096, length),
        "max_num_seqs": 64,
    }

"""A checkpoint as judge, in this process: the service's own pipeline on one of its engines, without HTTP.

Prompts, tokens, both orders and votes come from `service.scoring`, started as `service.app` does. Nothing is written
a second time, so a number is the same here and through a running service.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from prometheus_client import CollectorRegistry

from service.errors import BadRequest, JudgmentFailed, ServiceError, StartupError
from service.judge import Judge
from service.scoring import Scorer, Trace
from service.settings import Settings, load_settings
from service.startup import load_manifest, pick_engine, plan_judges
from service.types import Verdict
from training.data.pairs import Pair
from training.evaluation.items import Failure
from training.evaluation.judges.base import EvaluationError, refusal, version_name
from training.generation.engines import judges_on


class CheckpointJudge:
    """A judge of a started scorer. Made by `opened`."""

    def __init__(self, scorer: Scorer, judge: Judge, votes: int) -> None:
        self._scorer = scorer
        self._judge = judge
        self._votes = votes

    @property
    def name(self) -> str:
        return self._judge.name

    @property
    def version(self) -> str:
        info = self._judge.engine.info
        return version_name(self._judge.version, info.engine, info.dtype, self._votes)

    async def judge(self, pairs: Sequence[Pair]) -> list[Verdict | Failure]:
        refused = [refusal(pair) for pair in pairs]
        asked = [pair for pair, failure in zip(pairs, refused, strict=True) if failure is None]
        outcomes = await self._scorer.compare(
            self._judge, [pair.comparison for pair in asked], votes=self._votes, trace=Trace()
        )
        answers = iter([_outcome(outcome) for outcome in outcomes])
        return [failure or next(answers) for failure in refused]


def _outcome(outcome: Verdict | ServiceError) -> Verdict | Failure:
    if isinstance(outcome, Verdict):
        return outcome
    if isinstance(outcome, JudgmentFailed | BadRequest):
        return Failure(outcome.code, outcome.message)
    raise EvaluationError(
        f"The engine cannot go on ({outcome.message}); what was judged is kept: start again to go on."
    )


@asynccontextmanager
async def opened(
    model: str,
    engine: str = "transformers",
    judge: str | None = None,
    votes: int = 1,
    *,
    family: str | None = None,
    options: dict[str, Any] | None = None,
) -> AsyncIterator[CheckpointJudge]:
    """The checkpoint's judge of that name (or its first), ready. ``options`` are further settings of the engine.

    Raises `EvaluationError` where the service would not start with it, or has no such judge.
    """
    judges = [{"name": family, "family": family}] if family else []
    wanted = {"engine": {"type": engine, "model": model, **(options or {})}, "judges": judges}
    async with AsyncExitStack() as stack:
        try:
            scorer = await _started(load_settings(None, wanted), stack)
            found = scorer.judge(judge)
        except (StartupError, BadRequest) as error:
            raise EvaluationError(error.message) from error
        yield CheckpointJudge(scorer, found, votes)


async def _started(settings: Settings, stack: AsyncExitStack) -> Scorer:
    """A scorer on an engine that ``stack`` closes, its judges tested."""
    manifest = load_manifest(settings)
    plans = plan_judges(settings, manifest)
    engine = pick_engine(settings, plans, manifest, CollectorRegistry())
    stack.push_async_callback(engine.close)
    await engine.start()
    return await judges_on(engine, settings, plans)

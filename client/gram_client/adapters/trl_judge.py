"""TRL's pairwise judges, which it had until 1.0 (OnlineDPO, NashMD, XPO): a subclass where TRL has the base, else the
same shape without it. TRL 1.1 and later take reward functions: `gram_client.adapters.trl`."""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Sequence
from typing import Any

from gram_client.adapters.judging import Judging
from gram_client.adapters.texts import prompt_of, response_of
from gram_client.errors import NotFound, ScoringError, Unauthorized
from gram_client.items import Pair

logger = logging.getLogger(__name__)

FAILED = -1
"""TRL's word for "no answer". Its trainers do not look for it: they train as if the second response had won."""


def _base() -> type:
    """Where TRL keeps its judges: 0.26 to 1.0, before that, and nowhere."""
    for module in ("trl.experimental.judges", "trl"):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that trl.experimental is experimental
                base = getattr(importlib.import_module(module), "BasePairwiseJudge", None)
        except ImportError:
            continue
        if isinstance(base, type):
            return base
    return object


class GramPairwiseJudge(_base()):  # type: ignore[misc]
    """Asks /compare, both orders of each pair, so there is nothing to shuffle. Keywords are those of `Judging`."""

    def __init__(self, base_url: str | None = None, **judging: Any) -> None:
        self.judging = Judging(base_url, **judging)

    def judge(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Sequence[Any]],
        shuffle_order: bool = True,
        return_scores: bool = False,
    ) -> list[int] | list[float]:
        """Which of each two completions is better: 0, 1, or -1 where nobody knows; a tie is 0.

        With `return_scores` P(the first is better), as NashMD asks; 0.5 where nobody knows. Failures are logged as
        warnings. Raises `Unauthorized` and `NotFound`.
        """
        pairs = [
            Pair(prompt_of(p), response_of(a), response_of(b)) for p, (a, b) in zip(prompts, completions, strict=True)
        ]
        wins: list[float | None] = [None] * len(pairs)
        try:
            verdicts = self.judging.client().compare_many(pairs)
            wins = [verdict.p_first for verdict in verdicts]
            why = next((str(verdict.error) for verdict in verdicts if verdict.error), "")
        except (Unauthorized, NotFound):
            raise
        except ScoringError as error:
            why = str(error)
        if None in wins:
            logger.warning("%d of %d pairs have no verdict: %s", wins.count(None), len(wins), why)
        if return_scores:
            return [0.5 if win is None else win for win in wins]
        return [FAILED if win is None else int(win < 0.5) for win in wins]

"""How good a policy is: by a checker that is no judge, by the judge it is trained on, and how far it has moved."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import torch

from gram_client import Client, Referenced, ScoringError
from gram_client.adapters.texts import is_visible
from training.evaluation.best_of_n.demo import check
from training.generation.outcomes import GenerationError
from training.rlhf.policies import log_probs, write
from training.rlhf.questions import Questions

ROWS = 64
"""Responses written at a time."""


@dataclass(frozen=True, slots=True)
class Marks:
    """Means over an exam; the policy before reinforcement learning is "the old one".

    ``gold``: right by the checker, of greedy responses; ``gold_sampled``: of one sample each at temperature 1.
    ``proxy``: the judge's P(greedy response better than the old one's greedy response). ``win_rate``: the checker's,
    greedy against greedy, equally right counting half; ``judge_win_rate``: the judge's verdict likewise. ``kl``: nats a
    response from the old policy, by the samples. ``failed``: share that the judge gave no score; it is in no mean.
    """

    gold: float
    gold_sampled: float
    proxy: float
    win_rate: float
    judge_win_rate: float
    kl: float
    failed: float

    def named(self, prefix: str) -> dict[str, float]:
        return {f"{prefix}/{name}": value for name, value in asdict(self).items()}


class Exam:
    """Fixed questions, the old policy's greedy responses to them, and the judge."""

    def __init__(self, questions: Questions, old: Any, tokenizer: Any, client: Client) -> None:
        self._questions, self._old, self._tokenizer, self._client = questions, old, tokenizer, client
        self._references = self._greedy(old)
        self._right = _checked(self._references, questions.answers)

    def take(self, model: Any, seed: int = 0) -> Marks:
        """The marks of a policy; the samples depend on ``seed`` alone, and the global generator is left as it was."""
        greedy = self._greedy(model)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            sampled, kl = self._sampled(model)
        right = _checked(greedy, self._questions.answers)
        scores = self._judged(greedy)
        known = [score for score in scores if score is not None]
        return Marks(
            gold=fmean(right),
            gold_sampled=fmean(_checked(sampled, self._questions.answers)),
            proxy=fmean(known) if known else math.nan,
            win_rate=fmean(0.5 + (new - old) / 2 for new, old in zip(right, self._right, strict=True)),
            judge_win_rate=fmean((score > 0.5) + (score == 0.5) / 2 for score in known) if known else math.nan,
            kl=kl,
            failed=1 - len(known) / len(scores),
        )

    def _greedy(self, model: Any) -> list[str]:
        prompts = self._questions.prompts
        return [text for part in _parts(prompts) for text in write(model, self._tokenizer, part, greedy=True)[1]]

    def _sampled(self, model: Any) -> tuple[list[str], float]:
        texts: list[str] = []
        moved = 0.0
        for part in _parts(self._questions.prompts):
            samples, written = write(model, self._tokenizer, part)
            texts += written
            with torch.no_grad():
                moved += float((log_probs(model, samples) - log_probs(self._old, samples)).sum())
        return texts, moved / len(texts)

    def _judged(self, greedy: Sequence[str]) -> list[float | None]:
        """P(better than the old policy's): 0.5 where they are the same, None where one is empty or has no score."""
        rows = list(zip(self._questions.prompts, greedy, self._references, strict=True))
        sent = [i for i, row in enumerate(rows) if row[1] != row[2] and is_visible(row[1]) and is_visible(row[2])]
        try:
            scores = self._client.score_references([Referenced(*rows[i]) for i in sent]).scores if sent else []
        except ScoringError as error:
            raise GenerationError(f"The judge did not mark the exam: {error}") from error
        found = dict(zip(sent, scores, strict=True))
        return [0.5 if new == old else found.get(i) for i, (_, new, old) in enumerate(rows)]


def _checked(responses: Sequence[str], answers: Sequence[str]) -> list[float]:
    return [check(response, answer) for response, answer in zip(responses, answers, strict=True)]


def _parts(prompts: Sequence[str]) -> list[Sequence[str]]:
    return [prompts[first : first + ROWS] for first in range(0, len(prompts), ROWS)]

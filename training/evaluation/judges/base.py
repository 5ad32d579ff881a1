"""What every judge is to an evaluation, and the errors that end one."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Protocol

from service.types import JudgeVersion, Verdict
from training.data.pairs import Pair
from training.evaluation.items import Failure


class EvaluationError(Exception):
    """The evaluation cannot go on: one sentence that says what to do. What was judged so far is kept."""


class Judge(Protocol):
    """Judges pairs in both orders. ``version`` names everything that its answers depend on: they are kept under it."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    async def judge(self, pairs: Sequence[Pair]) -> list[Verdict | Failure]:
        """Outcomes in input order. A pair that cannot be judged is its `Failure`, never a number.

        Raises `EvaluationError` where nothing can be judged any more (service down, key refused, engine dead).
        """
        ...


def version_name(version: JudgeVersion, engine: str, dtype: str, votes: int) -> str:
    """Judge, weights, template, and what may move its last digits."""
    name = f"{version.judge}@{version.weight_version}/{version.template_hash}/{engine}-{dtype}"
    return f"{name}/votes={votes}" if votes > 1 else name


def refusal(pair: Pair) -> Failure | None:
    """What the service would refuse a whole request for, found before asking: a text without a visible character, or
    one that is not Unicode (a lone surrogate, which JSON can hold and UTF-8 cannot)."""
    prompt = "".join(message.content for message in pair.prompt.messages)
    for field, text in {"prompt": prompt, "response_a": pair.response_a, "response_b": pair.response_b}.items():
        if not text.isascii() and text.encode("utf-8", "ignore").decode("utf-8") != text:
            return Failure("invalid_input", f"The {field} holds a lone surrogate.")
        if not any(not char.isspace() and unicodedata.category(char) != "Cf" for char in text):
            return Failure("invalid_input", f"The {field} is empty or white space only.")
    return None

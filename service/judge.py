"""One configured judge: a family on an engine's model (or on a LoRA adapter of it), with its tokenizer and limits."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from service.engines.base import Engine, Repetition
from service.judging.base import Family
from service.tokenization import ChatTokenizer
from service.types import JudgeVersion, OnBudget, TextFlag


@dataclass(frozen=True, slots=True)
class Judge:
    """``max_prompt_tokens`` leaves room for the answer; ``label_ids`` are empty for scalar judges. ``on_budget`` and
    ``repetition`` say what ends a rationale that does not end by itself. Responses with one of ``refuse_flags`` are not
    judged."""

    name: str
    family: Family
    engine: Engine
    tokenizer: ChatTokenizer
    version: JudgeVersion
    label_ids: tuple[int, ...]
    max_prompt_tokens: int
    max_rationale_tokens: int
    adapter: str | None = None
    min_label_mass: float = 0.05
    on_budget: OnBudget = "invalid"
    repetition: Repetition | None = None
    refuse_flags: Collection[TextFlag] = frozenset()

    @property
    def writes_rationale(self) -> bool:
        return self.family.reads == "rationale"

    @property
    def is_scalar(self) -> bool:
        return self.family.reads == "scalar"

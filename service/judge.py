"""One configured judge: a family on an engine's model (or on a LoRA adapter of it), with its tokenizer and limits."""

from __future__ import annotations

from dataclasses import dataclass

from service.engines.base import Engine
from service.judging.base import Family
from service.tokenization import ChatTokenizer
from service.types import JudgeVersion


@dataclass(frozen=True, slots=True)
class Judge:
    """``max_prompt_tokens`` leaves room for the answer; ``label_ids`` are empty for scalar judges."""

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

    @property
    def writes_rationale(self) -> bool:
        return self.family.reads == "rationale"

    @property
    def is_scalar(self) -> bool:
        return self.family.reads == "scalar"

"""GRAM (ICML 2025, arXiv 2506.14175): one token, A or B, read as a probability; no text is written.

The prompt is the published evaluation script's, whose tail is ``#Preferred: `` with a space (its demo script lacks the
tail, its README the space). The scripts disable Qwen3's thinking, which puts an empty think block before the label.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from service.judging.base import Parsed, conversation_text, fill, load_prompt
from service.types import Comparison, Message, Rendered

_PROMPT = load_prompt("gram")


@dataclass(frozen=True, slots=True)
class Gram:
    name: str = "gram"
    template: str = "eval"
    reads: Literal["label"] = "label"
    labels: tuple[str, str] = ("A", "B")
    delimiters: tuple[str, ...] = (
        "[User Question]",
        "[The Start of Assistant A's Answer]",
        "[The End of Assistant A's Answer]",
        "[The Start of Assistant B's Answer]",
        "[The End of Assistant B's Answer]",
        "#Preferred:",
    )
    verdict_opener: str = ""
    max_rationale_tokens: int = 0
    vote_temperature: float = 0.0

    @property
    def template_text(self) -> str:
        return _PROMPT

    def render(self, comparison: Comparison) -> Rendered:
        values = {
            "question": conversation_text(comparison.prompt),
            "response_a": comparison.first.text,
            "response_b": comparison.second.text,
        }
        return Rendered((Message.of_parts("user", fill(_PROMPT, values)),), enable_thinking=False)

    def parse(self, text: str) -> Parsed:
        return Parsed("invalid", None, 0, {})

    def ending(self, text: str) -> tuple[int, str]:
        return len(text), ""


FAMILY = Gram()

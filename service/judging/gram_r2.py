"""GRAM-R2 (AAAI 2026, arXiv 2509.02492): a rationale in a think block, then ``<answer>`` with the letter.

Grammar of the released prompt: ``<think> Feedback: .. Comparision: .. Conclusion: .. </think> <answer> A </answer>``.
"Comparision" is how the published prompt spells it; the reader accepts both spellings. The authors' batch script
samples at temperature 0.75 with 2,048 new tokens.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from service.judging.base import Blocks, Parsed, anchored_verdict, conversation_text, fill, load_prompt, without_answer
from service.types import Comparison, Message, Rendered

_PROMPT = load_prompt("gram_r2")
_ANSWER = re.compile(r"<answer>\s*([AB])\s*</answer>")
_BLOCKS = Blocks(("think",))
_HEADER = re.compile(r"(?:^|<think>)[ \t]*(Feedback|Compari(?:s|si)on|Conclusion):[ \t]*", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class GramR2:
    name: str = "gram_r2"
    template: str = "release"
    reads: Literal["rationale"] = "rationale"
    labels: tuple[str, str] = ("A", "B")
    delimiters: tuple[str, ...] = (
        "[User Question]",
        "[The Start of Assistant A's Response]",
        "[The End of Assistant A's Response]",
        "[The Start of Assistant B's Response]",
        "[The End of Assistant B's Response]",
    )
    verdict_opener: str = "<answer>\n"
    max_rationale_tokens: int = 2048
    vote_temperature: float = 0.75

    @property
    def template_text(self) -> str:
        return _PROMPT

    def render(self, comparison: Comparison) -> Rendered:
        values = {
            "question": conversation_text(comparison.prompt),
            "response_a": comparison.first.text,
            "response_b": comparison.second.text,
        }
        return Rendered((Message.of_parts("user", fill(_PROMPT, values)),))

    def parse(self, text: str) -> Parsed:
        verdict, label_at, conflicting = anchored_verdict(text, _ANSWER, _BLOCKS)
        return Parsed(verdict, label_at, conflicting, _sections(text))

    def ending(self, text: str) -> tuple[int, str]:
        """The thought is closed unless it is; chat templates may have opened it in the prompt."""
        kept = without_answer(text)
        thinking = _BLOCKS.still_open(kept) or "</think>" not in kept
        return len(kept), ("\n</think>\n" if thinking else "\n") + self.verdict_opener


def write(feedback: str, comparison: str, conclusion: str, letter: Literal["A", "B"]) -> str:
    """A judgment in the grammar `GramR2.parse` reads; what training data is made of."""
    return (
        f"<think>\nFeedback:\n{feedback}\n\nComparision:\n{comparison}\n\nConclusion:\n{conclusion}\n</think>\n"
        f"<answer>\n{letter}\n</answer>"
    )


def _sections(text: str) -> dict[str, str]:
    """The think block's three parts under the keys feedback, comparison, conclusion; absent parts are left out.

    The block ends at the last ``</think>``, as for the verdict: a judge may quote one that a response contains.
    """
    thought = text.rpartition("</think>")[0] or text.partition("<answer>")[0]
    parts = _HEADER.split(thought)[1:]
    names = ("comparison" if name.startswith("Compari") else name.lower() for name in parts[::2])
    return {name: value.strip() for name, value in zip(names, parts[1::2], strict=True)}


FAMILY = GramR2()

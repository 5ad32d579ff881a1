"""RM-R1 (ICLR 2026, arXiv 2505.02387): Chain-of-Rubrics, then ``<answer>[[A]]</answer>`` (or B).

Two published templates: ``instruct`` (a system prompt that first classifies the task as chat or reasoning, then asks
for a rubric or an own solution) and ``reasoner`` (one user turn, for the DeepSeek-distilled models). Its training
reward, its evaluation and its data filter each parse differently; here there is one reader.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from service.judging.base import Blocks, Parsed, anchored_verdict, conversation_text, fill, load_prompt, without_answer
from service.types import Comparison, Message, Prompt, Rendered, Response

_SYSTEM = load_prompt("rm_r1_instruct_system")
_USER = {
    (template, multi): load_prompt(f"rm_r1_{template}_user{'_multi' if multi else ''}")
    for template in ("instruct", "reasoner")
    for multi in (False, True)
}
_ANSWER = re.compile(r"<answer>\s*\[\[([AB])\]\]\s*</answer>")
_BLOCKS = {
    "instruct": Blocks(
        ("think", "type", "rubric", "solution", "eval"), ("justify", "quote_A", "quote_B", "summary_A", "summary_B")
    ),
    "reasoner": Blocks(("think",)),
}
_SECTION_TAGS = ("type", "rubric", "justify", "solution", "eval")


@dataclass(frozen=True, slots=True)
class RmR1:
    template: Literal["instruct", "reasoner"] = "instruct"
    name: str = "rm_r1"
    reads: Literal["rationale"] = "rationale"
    labels: tuple[str, str] = ("A", "B")
    delimiters: tuple[str, ...] = (
        "[Client Question]",
        "[The Start of Chatbot A's Response]",
        "[The End of Chatbot A's Response]",
        "[The Start of Chatbot B's Response]",
        "[The End of Chatbot B's Response]",
        "[The Start of the Conversation between Chatbot A and the Client]",
        "[The End of the Conversation between Chatbot A and the Client]",
        "[The Start of the Conversation between Chatbot B and the Client]",
        "[The End of the Conversation between Chatbot B and the Client]",
    )
    verdict_opener: str = "<answer>[["
    max_rationale_tokens: int = 8192
    vote_temperature: float = 1.0

    @property
    def template_text(self) -> str:
        system = _SYSTEM if self.template == "instruct" else ""
        return system + _USER[self.template, False] + _USER[self.template, True]

    def render(self, comparison: Comparison) -> Rendered:
        user = Message.of_parts("user", _fill_user(self.template, comparison))
        return Rendered((Message.of_parts("system", (_SYSTEM,)), user) if self.template == "instruct" else (user,))

    def parse(self, text: str) -> Parsed:
        verdict, label_at, conflicting = anchored_verdict(text, _ANSWER, _BLOCKS[self.template])
        return Parsed(verdict, label_at, conflicting, _sections(text))

    def ending(self, text: str) -> tuple[int, str]:
        """The block that is open is closed; a reasoner's chat template opens its thought in the prompt."""
        kept = without_answer(text)
        block = _BLOCKS[self.template].still_open(kept)
        if block is None and self.template == "reasoner" and "</think>" not in kept:
            block = "think"
        return len(kept), (f"\n</{block}>\n" if block else "\n") + self.verdict_opener


def _fill_user(template: str, comparison: Comparison) -> tuple[str, ...]:
    prompt, first, second = comparison.prompt, comparison.first, comparison.second
    if prompt.is_single_turn:
        values = {"question": prompt.messages[0].content, "response_a": first.text, "response_b": second.text}
        return fill(_USER[template, False], values)
    values = {
        "conversation_a": _whole_conversation(prompt, first, "Chatbot A"),
        "conversation_b": _whole_conversation(prompt, second, "Chatbot B"),
    }
    return fill(_USER[template, True], values)


def _whole_conversation(prompt: Prompt, response: Response, chatbot: str) -> str:
    """Both chatbots are spelled alike; the published builder's "Chabot B" leaks the label and is not reproduced."""
    return f"{conversation_text(prompt, chatbot)}\n{chatbot}: {response.text}"


def _sections(text: str) -> dict[str, str]:
    """The tagged parts (the first of each), nested justify included; tags that are absent are left out."""
    found = ((tag, text.partition(f"<{tag}>")[2].partition(f"</{tag}>")) for tag in _SECTION_TAGS)
    return {tag: inside.strip() for tag, (inside, closing, _) in found if closing}


INSTRUCT = RmR1("instruct")
REASONER = RmR1("reasoner")

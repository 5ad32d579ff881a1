"""GRAM's first stage (arXiv 2506.14175): the question is the user's turn, both responses are the assistant's.

Only the responses are learned, and no label is used. The published format is the middle of the published judge prompt,
line for line - from the question to the last bracket line, without instruction and cue - so it is taken from there.
"""

from __future__ import annotations

from service.judging import gram
from service.judging.base import conversation_text, fill
from service.types import Comparison, Message, Rendered

_PROMPT = gram.FAMILY.template_text
_QUESTION_AT, _ANSWERS_AT, _CUE_AT = (_PROMPT.index(gram.FAMILY.delimiters[i]) for i in (0, 1, -1))
QUESTION = _PROMPT[_QUESTION_AT:_ANSWERS_AT].rstrip("\n")
ANSWERS = _PROMPT[_ANSWERS_AT:_CUE_AT].rstrip("\n")


def render(comparison: Comparison) -> Rendered:
    """The whole conversation. Thinking is off as in the second stage, so that both begin a reply alike."""
    question = fill(QUESTION, {"question": conversation_text(comparison.prompt)})
    values = {"response_a": comparison.first.text, "response_b": comparison.second.text}
    turns = (Message.of_parts("user", question), Message.of_parts("assistant", fill(ANSWERS, values)))
    return Rendered(turns, generation_prompt=False, enable_thinking=False)


def opening(rendered: Rendered) -> Rendered:
    """The part of the conversation that is given: all but the assistant's turn, up to where its text begins."""
    return Rendered(rendered.messages[:-1], generation_prompt=True, enable_thinking=rendered.enable_thinking)

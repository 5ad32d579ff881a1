"""What a request will cost the engine, guessed from the lengths of its texts before anything is tokenized.

Prompts are counted; tokens are characters times a rate that is learned, for each judge, from the tokens of its replies.
A guess is enough: it bounds how much work waits inside, and the engine still refuses what does not fit its context.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from service.judge import Judge
from service.line import Cost
from service.types import Comparison, Prompt, Response, Usage

FIRST_RATE = 0.3
"""Tokens a character: English takes about one in four, code and other scripts more."""
STEP = 0.1
"""How far one reply moves the rate."""


@dataclass(frozen=True, slots=True)
class Load:
    """Engine prompts and the characters of the callers' texts in all of them together."""

    prompts: int = 0
    chars: int = 0

    def __add__(self, other: Load) -> Load:
        return Load(self.prompts + other.prompts, self.chars + other.chars)


class CostGuesser:
    """Costs by judge. `learn` is told what a request took once that is known."""

    def __init__(self) -> None:
        self._rates: dict[str, float] = {}
        self._frames: dict[str, int] = {}

    def cost(self, judge: Judge, load: Load) -> Cost:
        """Prompts as they are, and the tokens they will have, together with all that a judge may write behind them."""
        rate = self._rates.get(judge.name, FIRST_RATE)
        written = judge.max_rationale_tokens if judge.writes_rationale else 0
        tokens = min(self._chars(judge, load) * rate, float(load.prompts * judge.max_prompt_tokens))
        return Cost(load.prompts, int(tokens) + load.prompts * written)

    def learn(self, judge: Judge, load: Load, usage: Usage) -> None:
        """Move the judge's rate towards what `usage` says; a request without tokens says nothing.

        A ranking that was decided early took fewer pairs than it was counted for, and so fewer characters. Where a
        judge reads its own rationales too, tokens do not tell how long the callers' texts were.
        """
        asked = min(1.0, 2 * usage.comparisons / load.prompts) if usage.comparisons and load.prompts else 1.0
        chars = asked * self._chars(judge, load)
        if usage.prompt_tokens and chars and not judge.writes_rationale:
            old = self._rates.get(judge.name, FIRST_RATE)
            self._rates[judge.name] = old + STEP * (usage.prompt_tokens / chars - old)

    def _chars(self, judge: Judge, load: Load) -> int:
        if judge.name not in self._frames:
            self._frames[judge.name] = _frame_chars(judge)
        return load.chars + load.prompts * self._frames[judge.name]


def of_pairs(comparisons: Sequence[Comparison], votes: int = 1) -> Load:
    """Pairs in both orders, each with its own prompt."""
    chars = 0
    for one in comparisons:
        chars += chars_of(one.prompt) + len(one.first.text) + len(one.second.text)
    return Load(2 * votes * len(comparisons), 2 * votes * chars)


def of_group(prompt: Prompt, responses: Sequence[Response], pairs: int) -> Load:
    """So many pairs, in both orders, among the responses to one prompt."""
    mean = sum(len(response.text) for response in responses) / max(1, len(responses))
    return Load(2 * pairs, round(2 * pairs * (chars_of(prompt) + 2 * mean)))


def of_singles(items: Iterable[tuple[Prompt, Response]]) -> Load:
    """Responses that are scored one by one."""
    lengths = [chars_of(prompt) + len(response.text) for prompt, response in items]
    return Load(len(lengths), sum(lengths))


def chars_of(prompt: Prompt) -> int:
    """Characters of all its messages."""
    messages = prompt.messages
    return len(messages[0].content) if len(messages) == 1 else sum(len(message.content) for message in messages)


def _frame_chars(judge: Judge) -> int:
    """Characters of the judge's own words in one prompt."""
    question, empty = Prompt.from_text(""), Response("")
    if judge.family.reads == "scalar":
        rendered = judge.family.render_one(question, empty)
    else:
        rendered = judge.family.render(Comparison(question, empty, empty))
    return sum(len(message.content) for message in rendered.messages)

"""What a judge family is: how it asks, which tokens it answers with, how its answer is read. Words in, words out.

A family is one file plus its prompt text under `prompts/`; the service, the training data and the evaluation all import
that file, so the judge is never asked at serving time in other words than it was trained on.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Literal, Protocol

from service.errors import InvalidInput, NonFiniteScore
from service.types import Comparison, OrderReading, Prompt, Rendered, Response

Letter = Literal["A", "B", "invalid"]
Reads = Literal["label", "rationale", "scalar"]

_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")


@dataclass(frozen=True, slots=True)
class Parsed:
    """A written judgment, read from generated text only.

    ``label_at`` is the character offset of the winning verdict letter in the text (None when invalid); ``conflicting``
    counts earlier verdict tags that named the other response.
    """

    verdict: Letter
    label_at: int | None
    conflicting: int
    sections: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Blocks:
    """The tagged parts of a family's grammar, where a judge thinks and quotes. Its verdict stands outside all of them.

    Closing one of ``outer`` ends whatever was opened inside it, so that a tag somebody quoted there opens nothing.
    """

    outer: tuple[str, ...]
    inner: tuple[str, ...] = ()

    def still_open(self, text: str) -> str | None:
        """The block in which the text ends: the one to close, which is the outer one where both are open."""
        closed = max(_end(text, f"</{name}>") for name in self.outer)
        tail = text[closed:]
        opened = {name: tail.rfind(f"<{name}>") for name in self.outer + self.inner}
        inside = [name for name in self.outer if opened[name] >= 0]
        inside = inside or [name for name in self.inner if opened[name] > tail.rfind(f"</{name}>")]
        return max(inside, key=opened.__getitem__, default=None)


def _end(text: str, part: str) -> int:
    """Where the last occurrence ends; 0 without one."""
    at = text.rfind(part)
    return at + len(part) if at >= 0 else 0


class PairwiseFamily(Protocol):
    """A judge shown two responses at once, answering with one of two letters. Read-only: families are frozen."""

    @property
    def name(self) -> str: ...

    @property
    def template(self) -> str: ...

    @property
    def reads(self) -> Literal["label", "rationale"]: ...

    @property
    def labels(self) -> tuple[str, str]: ...

    @property
    def delimiters(self) -> tuple[str, ...]:
        """Lines of the template that a response could imitate."""
        ...

    @property
    def verdict_opener(self) -> str:
        """Text after which the next token is the verdict letter; empty when the reply starts with it."""
        ...

    @property
    def max_rationale_tokens(self) -> int: ...

    @property
    def vote_temperature(self) -> float:
        """Sampling temperature used when more than one vote is asked for."""
        ...

    @property
    def template_text(self) -> str:
        """Every byte of the prompt that is ours, for the template hash."""
        ...

    def render(self, comparison: Comparison) -> Rendered:
        """The chat that asks which response is better."""
        ...

    def parse(self, text: str) -> Parsed:
        """Read a written judgment. Families that write none treat any text as invalid."""
        ...

    def ending(self, text: str) -> tuple[int, str]:
        """How to end a judgment that ran out of tokens: how many of its characters to keep, and what to write there
        so that the next token is the verdict letter."""
        ...


class ScalarFamily(Protocol):
    """A discriminative reward model: one response at a time, one number, P(a > b) = sigma(r_a - r_b)."""

    @property
    def name(self) -> str: ...

    @property
    def template(self) -> str: ...

    @property
    def reads(self) -> Literal["scalar"]: ...

    @property
    def delimiters(self) -> tuple[str, ...]: ...

    @property
    def template_text(self) -> str: ...

    def render_one(self, prompt: Prompt, response: Response) -> Rendered:
        """The conversation the head reads."""
        ...


Family = PairwiseFamily | ScalarFamily


def load_prompt(name: str) -> str:
    """A prompt file, byte for byte: trailing spaces and missing final newlines are part of it."""
    return (files("service.judging") / "prompts" / f"{name}.txt").read_bytes().decode("utf-8")


def fill(template: str, values: Mapping[str, str]) -> tuple[str, ...]:
    """Put values for ``{name}`` placeholders, in one pass, so that a text containing ``{response_b}`` stays text.

    The template's texts and the values alternate; joined they are the prompt.
    """
    return tuple(values[text] if i % 2 else text for i, text in enumerate(_PLACEHOLDER.split(template)))


def conversation_text(prompt: Prompt, assistant_name: str = "Assistant") -> str:
    """A conversation as one block of ``Role: content`` lines, the form RM-R1's and GRAM's multi-turn data use.

    A prompt of one user turn is that turn's text alone.
    """
    if prompt.is_single_turn:
        return prompt.messages[0].content
    names = {"user": "User", "assistant": assistant_name, "system": "System"}
    return "\n".join(f"{names.get(m.role, m.role.capitalize())}: {m.content}" for m in prompt.messages)


def read_labels(logprobs: tuple[float, ...]) -> OrderReading:
    """Softmax over the two label log-probabilities of one order: the axis of GRAM's evaluation script, not of its demo.

    Raises `NonFiniteScore` for NaN or infinity.
    """
    first, second = logprobs
    if not (math.isfinite(first) and math.isfinite(second)):
        raise NonFiniteScore("The model returned a non-finite label probability; check the weights and the dtype.")
    log_odds = first - second
    return OrderReading(sigmoid(log_odds), log_odds, min(1.0, math.exp(first) + math.exp(second)))


def read_scalar(score: float | None) -> float:
    """A reward head's output. Raises `NonFiniteScore` for NaN, infinity or none."""
    if score is None or not math.isfinite(score):
        raise NonFiniteScore("The reward head returned a non-finite score; check the weights and the dtype.")
    return score


def read_scalars(first: float | None, second: float | None) -> OrderReading:
    """P(first better) = sigma(r_first - r_second) for a discriminative reward model."""
    log_odds = read_scalar(first) - read_scalar(second)
    return OrderReading(sigmoid(log_odds), log_odds, None)


def sigmoid(x: float) -> float:
    """1 / (1 + e^-x) without overflow; sigmoid(-x) == 1 - sigmoid(x) to rounding."""
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))


def template_hash(family: Family, chat_template: str) -> str:
    """Identity of all that surrounds the user's text: family prompt, labels, the chat template. 12 hex digits."""
    digest = hashlib.sha256()
    labels = () if family.reads == "scalar" else family.labels
    for part in (family.name, family.template, family.template_text, *labels, chat_template):
        digest.update(part.encode("utf-8") + b"\x00")
    return digest.hexdigest()[:12]


def anchored_verdict(text: str, tag: re.Pattern[str], blocks: Blocks) -> tuple[Letter, int | None, int]:
    """Verdict letter, its offset and the number of earlier contradicting tags.

    Only a well-formed tag counts that stands at the very end of the text and outside every block: a judge that stops
    right after quoting a response has not judged. The last tag wins. An error on contradiction would hand a veto to
    any response that makes the judge quote a verdict tag.
    """
    matches = list(tag.finditer(text))
    if not matches or text[matches[-1].end() :].strip():
        return "invalid", None, 0
    last = matches[-1]
    if blocks.still_open(text[: last.start()]):
        return "invalid", None, 0
    letter: Letter = "A" if last.group(1) == "A" else "B"
    return letter, last.start(1), sum(m.group(1) != letter for m in matches[:-1])


_BEGUN_TAG = re.compile(r"</?\w{0,16}")
_BEGUN_ANSWER = re.compile(r"<answer>\[{0,2}[AB]?\]{0,2}(?:</answer>)?")


def without_answer(text: str) -> str:
    """A text that was cut off, without the tag or the answer it was cut in, and without white space at its end.

    An answer that was just completed goes, too: whoever asks for the letter asks at the place where it stood.
    """
    begun = text.rfind("<")
    if begun >= 0 and _BEGUN_TAG.fullmatch(text, begun):
        text = text[:begun]
    answer = text.rfind("<answer>")
    if answer >= 0 and _BEGUN_ANSWER.fullmatch("".join(text[answer:].split())):
        text = text[:answer]
    return text.rstrip()


def require_pairwise(family: Family) -> PairwiseFamily:
    """Narrow to a pairwise family. Raises `InvalidInput` for scalar judges."""
    if family.reads == "scalar":
        raise InvalidInput(f"Judge family {family.name} scores single responses and cannot render a comparison.")
    return family

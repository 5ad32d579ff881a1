"""The rules that a written proof must pass before it becomes training data, each counted under its own name.

The paper (arXiv 2509.02492) drops rationales that are too long, miss a part, disagree with the label or are malformed;
it gives no thresholds. Two rules are added for what sampled text is known for: copying its prompt, and going round in
circles (measured as in Gopher's filters, arXiv 2112.11446, appendix A.1: the share of text that has been there before).
What the prompt says of the form of a proof does not count as copied: every proof has that form.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from service.types import Comparison
from training.data.proofs import Fault, Letter, Proof, ProofError, Sections, render_prover_alone, says_better
from training.data.texts import words

Rule = Literal[Fault, "empty", "too long", "repeats the prompt", "repeats itself"]
RULES: tuple[Rule, ...] = get_args(Rule)

COPY_RUN = 8
"""Words in a row that count as copied; shorter runs are quotations."""
REPEAT_RUN = 4
FEWEST = 16
"""Texts of fewer words than this are too short to speak of repetition."""
_TASK = words(render_prover_alone().messages[0].content.partition("\n\n")[0])
"""What the prover is asked to do, before the form it is to do it in."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Most tokens of a proof, and most of its words (shares) that may be copied from the prompt, or said before."""

    tokens: int
    copied: float = 0.5
    repeated: float = 0.3


@dataclass(frozen=True, slots=True)
class Written:
    """What the prover wrote: ``tokens`` generated, ``finished`` False where the token limit cut it off."""

    text: str
    tokens: int
    finished: bool


def check(written: Written, shown: Comparison, letter: Letter, limits: Limits) -> Proof | Rule:
    """The proof that the response shown as ``letter`` is better, or the first rule that drops it."""
    if not written.text.strip():
        return "empty"
    if not written.finished or written.tokens > limits.tokens:
        return "too long"
    try:
        proof = Proof.read(written.text.strip())
        _ = proof.rationale
    except ProofError as error:
        return _habit([written.text], shown, limits) or error.fault
    if proof.letter != letter or says_better(proof.sections) not in (letter, None):
        return "disagrees with the label"
    return _habit(_texts(proof.sections), shown, limits) or proof


def _texts(sections: Sections) -> list[str]:
    return [sections.feedback, sections.comparison, sections.conclusion]


def _habit(texts: Sequence[str], shown: Comparison, limits: Limits) -> Rule | None:
    said = words("\n".join(texts))
    if copied_share(said, _prompt_words(shown)) > limits.copied:
        return "repeats the prompt"
    return "repeats itself" if repeated_share(said) > limits.repeated else None


def _prompt_words(shown: Comparison) -> list[list[str]]:
    turns = [message.content for message in shown.prompt.messages]
    return [_TASK, *(words(text) for text in (*turns, shown.first.text, shown.second.text))]


def copied_share(said: Sequence[str], sources: Iterable[Sequence[str]]) -> float:
    """Share of the words that stand in runs of `COPY_RUN` words which a source has, too; 0 for a short text."""
    if len(said) < FEWEST:
        return 0.0
    known = {run for source in sources for run in _runs(source, COPY_RUN)}
    covered = {place + i for place, run in enumerate(_runs(said, COPY_RUN)) if run in known for i in range(COPY_RUN)}
    return len(covered) / len(said)


def repeated_share(said: Sequence[str]) -> float:
    """Share of the runs of `REPEAT_RUN` words that stood earlier in the text; 0 for a short text."""
    runs = list(_runs(said, REPEAT_RUN))
    return 1.0 - len(set(runs)) / len(runs) if len(said) >= FEWEST else 0.0


def _runs(said: Sequence[str], size: int) -> Iterable[tuple[str, ...]]:
    return zip(*(said[start:] for start in range(size)), strict=False)

"""Pseudo-labels: a judge's votes in both orders become a label with its confidence, or a counted drop.

The label is the majority of the valid votes of both orders. Its confidence is P(labelled response better), averaged
over the valid votes of each order and then over the two orders, so that a position bias cancels. The paper
(arXiv 2509.02492) drops low confidence without naming the threshold; the recipe's default is 0.8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from service.types import Verdict
from training.data.pairs import PairLabel

Doubt = Literal["no verdict", "identical responses", "votes tied", "low confidence"]
DOUBTS: tuple[Doubt, ...] = get_args(Doubt)


@dataclass(frozen=True, slots=True)
class PseudoLabel:
    """The response most votes preferred, and how probable that is by their averaged probability."""

    label: PairLabel
    confidence: float


def label_of(verdict: Verdict, min_confidence: float) -> PseudoLabel | Doubt:
    """What to make of a verdict on votes; of a judge that writes nothing, the averaged probability alone decides.

    Majority and probability may point different ways: the confidence is then below one half, and dropped as low.
    """
    if verdict.votes is None:
        if verdict.p_first == 0.5:
            return "votes tied"
        label: PairLabel = "a" if verdict.p_first > 0.5 else "b"
    else:
        if verdict.votes.a == verdict.votes.b:
            return "votes tied"
        label = "a" if verdict.votes.a > verdict.votes.b else "b"
    confidence = verdict.p_first if label == "a" else 1.0 - verdict.p_first
    return PseudoLabel(label, confidence) if confidence >= max(min_confidence, 0.5) else "low confidence"

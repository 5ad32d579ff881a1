"""A round's unlabelled pairs and the judge's votes: which labels are kept, and how many are right where one knows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from service.types import Rationale, Verdict
from training.data.judgments import ShownPair, WrittenJudgment
from training.data.pairs import Pair
from training.data.proofs import Proof, ProofError
from training.generation.judging import LocalJudge, judge_all, read_verdicts
from training.generation.outcomes import Failure
from training.generation.seeds import seed_of
from training.selftrain.labelling import PseudoLabel, label_of
from training.selftrain.proving import NONE_LEFT, Proved
from training.selftrain.recipe import LabelSection, ProofSection
from training.selftrain.rules import Written, check

BINS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""Lower ends of the classes of confidence that a card shows."""


@dataclass(slots=True)
class Labelled:
    """``kept`` pairs carry their pseudo-label. ``known`` and ``right`` count pairs with a gold label and those of them
    whose pseudo-label is it, by class of confidence; pairs that were dropped as too uncertain are among them."""

    read: int = 0
    kept: list[Pair] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    votes: Counter[str] = field(default_factory=Counter)
    decided: Counter[float] = field(default_factory=Counter)
    known: Counter[float] = field(default_factory=Counter)
    right: Counter[float] = field(default_factory=Counter)
    kept_known: int = 0
    kept_right: int = 0

    def figures(self) -> dict[str, Any]:
        classes = [
            {"from": low, "pairs": self.decided[low], "gold_known": self.known[low], "right": self.right[low]}
            for low in BINS
        ]
        return {
            "read": self.read,
            "kept": len(self.kept),
            "dropped": dict(self.dropped.most_common()),
            "votes": dict(sorted(self.votes.items())),
            "gold_known": self.known.total(),
            "right": self.right.total(),
            "kept_gold_known": self.kept_known,
            "kept_right": self.kept_right,
            "confidence": classes,
        }


async def vote(
    judge: LocalJudge, pairs: Sequence[Pair], section: LabelSection, seed: int, number: int, output: Path, at_once: int
) -> Labelled:
    """Judge the pairs, ``votes`` of each order. ``seed`` is the run's and ``number`` the round's, for the votes' seeds.

    Raises `training.generation.outcomes.GenerationError` and `DataError`.
    """
    items = [(pair.id, pair.comparison) for pair in pairs]
    each = max(1, at_once // (2 * section.votes))
    drawn = seed_of("votes", seed, number)
    await judge_all(judge, items, section.votes, drawn, output, title=f"round {number}: votes", at_once=each)
    return labels_of(pairs, output, section)


def labels_of(pairs: Sequence[Pair], votes: Path, section: LabelSection) -> Labelled:
    """The labels in a finished file of votes."""
    found = Labelled()
    for pair, (_, verdict) in zip(pairs, read_verdicts(votes), strict=True):
        found.read += 1
        if isinstance(verdict, Failure):
            found.dropped["no verdict" if verdict.code == "invalid_verdict" else verdict.code] += 1
            continue
        if verdict.votes is not None:
            found.votes.update({"a": verdict.votes.a, "b": verdict.votes.b, "invalid": verdict.votes.invalid})
        _measure(found, pair, verdict)
        label = label_of(verdict, section.min_confidence)
        if isinstance(label, PseudoLabel):
            found.kept.append(replace(pair, label=label.label))
            found.kept_known += pair.label is not None
            found.kept_right += pair.label == label.label
        else:
            found.dropped[label] += 1
    return found


def gold_labels(pairs: Sequence[Pair]) -> Labelled:
    """The pairs' own labels, for an upper bound."""
    return Labelled(len(pairs), list(pairs), kept_known=len(pairs), kept_right=len(pairs))


def _measure(found: Labelled, pair: Pair, verdict: Verdict) -> None:
    label = label_of(verdict, 0.0)
    if not isinstance(label, PseudoLabel):
        return
    low = max(low for low in BINS if low <= label.confidence)
    found.decided[low] += 1
    found.known[low] += pair.label is not None
    found.right[low] += pair.label == label.label


def own_rationales(kept: Sequence[Pair], votes: Path, section: ProofSection, seeds: tuple[int | str, ...]) -> Proved:
    """For each kept pair one of the judge's own votes for its label, by the same rules as a proof: no prover."""
    wanted = {pair.id: pair for pair in kept}
    found = Proved(len(kept))
    for key, verdict in read_verdicts(votes):
        if key not in wanted or isinstance(verdict, Failure):
            continue
        pair = wanted[key]
        passed = list(_passing(pair, verdict.rationales, section, found))
        if not passed:
            found.lost[NONE_LEFT] += 1
            continue
        found.judgments.append(passed[seed_of("vote", *seeds, key) % len(passed)])
    return found


def _passing(
    pair: Pair, rationales: Iterable[Rationale], section: ProofSection, found: Proved
) -> Iterable[WrittenJudgment]:
    for one in rationales:
        if one.verdict != pair.label:
            continue
        found.candidates += 1
        claim = ShownPair(pair, one.order)
        try:
            proof = Proof.of_rationale(one.text.strip())
        except ProofError as error:
            found.dropped[error.fault] += 1
            continue
        rule = check(Written(proof.text, 0, one.finish_reason == "stop"), claim.shown, claim.letter, section.limits)
        if isinstance(rule, str):
            found.dropped[rule] += 1
        else:
            yield WrittenJudgment(pair, one.order, rule.rationale)

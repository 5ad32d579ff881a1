"""Written judgments of pairs, one for each row of a JSONL file: what a judge that writes before it decides learns from.

    {"pair": {"prompt": "2 + 2?", "response_a": "4", "response_b": "5", "label": "a"}, "order": "ab",
     "text": "<think>...</think>\\n<answer>A</answer>"}

``order`` is the one the text speaks of: "ba" shows B first, as assistant A. ``family`` says whose grammar the text is
written in; absent, it is GRAM-R2's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from service.judging.base import Family, PairwiseFamily
from service.judging.registry import FAMILIES
from service.types import Comparison, Order
from training.data.pairs import DataError, Pair, as_row, pair_of_row, read_objects, write_objects
from training.data.traces import flaw

_NEEDED = frozenset({"pair", "order", "text"})
_DEFAULT = "gram_r2"


@dataclass(frozen=True, slots=True)
class ShownPair:
    """A labelled pair in the order it is shown in: what is asked about."""

    pair: Pair
    order: Order

    @property
    def key(self) -> str:
        """Its name in files of answers."""
        return f"{self.pair.id}/{self.order}"

    @property
    def shown(self) -> Comparison:
        """The pair as the judge is shown it."""
        return self.pair.comparison if self.order == "ab" else self.pair.comparison.swap()

    @property
    def letter(self) -> Literal["A", "B"]:
        """The letter of the better response in this order."""
        return "A" if (self.pair.label == "a") == (self.order == "ab") else "B"


@dataclass(frozen=True, slots=True)
class WrittenJudgment(ShownPair):
    """What was written of a pair, in a judge family's grammar."""

    text: str
    family: str = _DEFAULT

    def require_verdict(self) -> None:
        """Raises `DataError` where the family's own parser reads another verdict than the pair's label, none, or two;
        and for a trace of RM-R1 with any flaw that `training.data.traces` names."""
        family = _writing_family(self.family)
        parsed = family.parse(self.text)
        complaint = None
        if parsed.verdict != self.letter:
            complaint = f"reads as {parsed.verdict}, the pair's label says otherwise"
        elif parsed.conflicting:
            complaint = "two verdicts"
        elif self.family == "rm_r1":
            complaint = flaw(self.text, True, self.letter, family, self.shown)
        if complaint:
            raise DataError(f"Judgment of pair {self.pair.id}, field text: {complaint}; leave it out, or correct it.")


def read_judgments(path: Path) -> Iterator[WrittenJudgment]:
    """The judgments of a file, one at a time. Raises `DataError` naming file, row and field, for no rows too."""
    for row, data in read_objects(path):
        yield _judgment(f"{path}, row {row}", data, f"{path.stem}/{row}")


def write_judgments(path: Path, judgments: Iterable[WrittenJudgment]) -> int:
    """Write a file that is whole or absent; returns the number of rows."""
    return write_objects(path, map(judgment_row, judgments))


def judgment_row(one: WrittenJudgment) -> dict[str, Any]:
    """The judgment as its JSON object."""
    row = {"pair": as_row(one.pair), "order": one.order, "text": one.text}
    return row if one.family == _DEFAULT else {**row, "family": one.family}


def _judgment(where: str, data: Mapping[str, Any], default_id: str) -> WrittenJudgment:
    if data.keys() - {"family"} != _NEEDED:
        raise DataError(f"{where}: must be a JSON object with the fields {', '.join(sorted(_NEEDED))} and no others.")
    if data["order"] not in ("ab", "ba"):
        raise DataError(f'{where}, field order: must be "ab" or "ba".')
    if not isinstance(data["text"], str) or not data["text"].strip():
        raise DataError(f"{where}, field text: must be a text that is not empty.")
    if not isinstance(data["pair"], dict):
        raise DataError(f"{where}, field pair: not a JSON object; every judgment needs its pair.")
    family = data.get("family", _DEFAULT)
    if family not in _writing_families():
        raise DataError(f"{where}, field family: must be one of {', '.join(_writing_families())}.")
    pair = pair_of_row(f"{where}, field pair", data["pair"], default_id)
    if pair.label is None:
        raise DataError(f"{where}, field pair.label: missing; a judgment decides for one response.")
    return WrittenJudgment(pair, data["order"], data["text"], family)


def _writing_families() -> list[str]:
    return [name for name, templates in FAMILIES.items() if _first(templates).reads == "rationale"]


def _writing_family(name: str) -> PairwiseFamily:
    """The family whose grammar a text is in; its templates share one."""
    family = _first(FAMILIES[name])
    assert family.reads == "rationale", "read_judgments lets only families in that write"
    return family


def _first(templates: Mapping[str, Family]) -> Family:
    return next(iter(templates.values()))

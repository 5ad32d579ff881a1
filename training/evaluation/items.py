"""What a benchmark is made of, and what a judge said of it.

Nothing here knows a benchmark or a judge. An `Item` is a labelled pair in the position it is judged in; a `Judged` is
the item with its verdict, or with the reason why there is none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from service.types import Prompt, Verdict
from training.data.pairs import DataError, Pair
from training.generation.outcomes import Failure as Failure  # a word of this room, too


@dataclass(frozen=True, slots=True)
class Item:
    """A labelled pair of a benchmark.

    Items of one ``unit`` are right only together (a best-of-n list); empty: the item stands alone. ``place`` is where
    in its subset the item belongs (RM-Bench: the styles of chosen and rejected).
    """

    pair: Pair
    unit: str = ""
    place: str = ""

    @property
    def cell(self) -> str:
        """The finest division that a benchmark's scores are made of."""
        return f"{self.pair.subset}/{self.place}" if self.place else self.pair.subset

    @property
    def group(self) -> str:
        """Items of one group are not independent: the pair's own, else the prompt's text as a digest."""
        return self.pair.group or prompt_digest(self.pair.prompt)

    @property
    def fingerprint(self) -> str:
        """Names what exactly was shown, and in which positions: an answer kept from an earlier run must be to this."""
        pair = self.pair
        turns = [[m.role, m.content] for m in pair.prompt.messages]
        return _digest([turns, pair.response_a, pair.response_b, pair.label])


def make_item(
    name: str,
    prompt: Prompt,
    chosen: str,
    rejected: str,
    subset: str,
    seed: int,
    *,
    unit: str = "",
    place: str = "",
) -> Item:
    """An item with its better response first or second by a coin that ``seed`` and ``name`` decide.

    Files show the chosen response first, always; a judge that always says "first" would be perfect on them. The coin
    depends on nothing else, so it is the same for any subset or order of the items.
    """
    first = hashlib.sha256(f"{seed}/{name}".encode()).digest()[0] % 2 == 0
    pair = Pair(
        id=name,
        prompt=prompt,
        response_a=chosen if first else rejected,
        response_b=rejected if first else chosen,
        label="a" if first else "b",
        subset=subset,
        group=prompt_digest(prompt),
    )
    return Item(pair, unit, place)


def prompt_digest(prompt: Prompt) -> str:
    """Names a prompt: equal for equal turns."""
    return _digest([[m.role, m.content] for m in prompt.messages])


@dataclass(frozen=True, slots=True)
class Judged:
    """An item and its outcome. Order 1 shows response a first, order 2 response b."""

    item: Item
    outcome: Verdict | Failure

    @property
    def verdict(self) -> Verdict | None:
        return self.outcome if isinstance(self.outcome, Verdict) else None

    @property
    def orders_right(self) -> tuple[bool, bool] | None:
        """Whether each order's own verdict names the better response; a tie (exactly one half) does not."""
        verdict = self.verdict
        if verdict is None:
            return None
        if self.item.pair.label == "a":
            return verdict.p_ab > 0.5, verdict.p_ba < 0.5
        return verdict.p_ab < 0.5, verdict.p_ba > 0.5

    @property
    def orders_wrong(self) -> tuple[bool, bool] | None:
        """Whether each order's own verdict names the worse response."""
        verdict = self.verdict
        if verdict is None:
            return None
        if self.item.pair.label == "a":
            return verdict.p_ab < 0.5, verdict.p_ba > 0.5
        return verdict.p_ab > 0.5, verdict.p_ba < 0.5

    @property
    def p_right(self) -> float | None:
        """P(the better response is better), averaged over both orders."""
        verdict = self.verdict
        if verdict is None:
            return None
        return verdict.p_first if self.item.pair.label == "a" else 1.0 - verdict.p_first


def check_names(items: Sequence[Item], where: str) -> None:
    """Raises `DataError` for no items, an item without label, or two of one name (their answers would be mixed up)."""
    if not items:
        raise DataError(f"{where}: no items; check the folder and its files.")
    seen: set[str] = set()
    for item in items:
        if item.pair.label is None:
            raise DataError(f"{where}, item {item.pair.id}, field label: missing; only labelled pairs can be scored.")
        if item.pair.id in seen:
            raise DataError(f"{where}, item {item.pair.id}, field id: occurs twice; names must differ.")
        seen.add(item.pair.id)


def limited(items: Sequence[Item], limit: int, seed: int) -> list[Item]:
    """About ``limit`` items, for trying out: whole prompts and subsets in seeded order, a prompt of each in turn."""
    prompts: dict[str, list[Item]] = {}
    for item in items:
        prompts.setdefault(item.group, []).append(item)
    waiting: dict[str, list[str]] = {}
    for group in sorted(prompts, key=_drawn(seed)):
        waiting.setdefault(prompts[group][0].pair.subset, []).append(group)
    taken: set[str] = set()
    count = 0
    while count < limit and any(waiting.values()):
        for subset in sorted(waiting, key=_drawn(seed)):
            if count < limit and waiting[subset]:
                group = waiting[subset].pop(0)
                taken.add(group)
                count += len(prompts[group])
    return [item for item in items if item.group in taken]


def _drawn(seed: int) -> Callable[[str], bytes]:
    """A sort key that puts names in a seeded order."""
    return lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest()


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]

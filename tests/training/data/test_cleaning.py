"""What is dropped from every data set, and which of equal pairs is kept."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.types import Message, Prompt
from tests.support.properties import bar
from training.data.cleaning import Duplicates, fault_of
from training.data.pairs import Pair, PairLabel


def pair(question: str = "q", a: str = "x", b: str = "y", label: PairLabel | None = "a") -> Pair:
    return Pair("p", Prompt.from_text(question), a, b, label)


@pytest.mark.parametrize(
    ("given_pair", "reason"),
    [
        (pair(), None),
        (pair(label=None), None),
        (pair(" \n"), "empty prompt"),
        (pair(a=""), "empty response"),
        (pair(b="\n\t "), "empty response"),
        (pair(a="same  text", b="same\ntext "), "identical responses"),
        (pair(a="Same", b="same"), None),
        (pair(a="x \ud800"), "lone surrogate"),
        (pair("\udfff"), "lone surrogate"),
        (Pair("p", Prompt((Message("user", "q"), Message("assistant", "r"))), "x", "y"), "the prompt ends with"),
    ],
)
def test_what_teaches_nothing_is_named(given_pair: Pair, reason: str | None) -> None:
    found = fault_of(given_pair)
    assert found is None if reason is None else reason in str(found)


@pytest.mark.parametrize(
    ("pairs", "faults"),
    [
        ([pair(), pair(b="z")], {}),
        ([pair(), pair(" q ", "x\n", "y")], {1: "duplicate"}),
        ([pair(), pair(a="y", b="x", label="b")], {1: "duplicate"}),
        ([pair(), pair(label=None), pair()], {1: "duplicate", 2: "duplicate"}),
        ([pair(), pair("other"), pair(label="b")], {0: "conflicting labels", 2: "conflicting labels"}),
        ([pair(), pair(a="y", b="x"), pair(label=None)], dict.fromkeys(range(3), "conflicting labels")),
    ],
)
def test_equal_pairs_are_kept_once_and_contradictions_not_at_all(pairs: list[Pair], faults: dict[int, str]) -> None:
    known = Duplicates()
    for one in pairs:
        known.add(one)
    assert known.faults() == faults


@bar(2_000)
@given(st.lists(st.builds(pair, *[st.sampled_from(["u", "v", "w "])] * 3, st.sampled_from(["a", "b", None]))))
def test_what_is_left_is_unique_and_of_one_opinion(pairs: list[Pair]) -> None:
    """In either order, and nothing is lost that had neither an equal nor a contradiction."""
    known = Duplicates()
    for one in pairs:
        known.add(one)
    faults = known.faults()
    keys = [
        (p.prompt.messages[0].content.strip(), *sorted((p.response_a.strip(), p.response_b.strip()))) for p in pairs
    ]
    kept = [key for index, key in enumerate(keys) if index not in faults]
    assert len(kept) == len(set(kept))
    winners: dict[tuple[str, ...], set[str]] = {}
    for key, one in zip(keys, pairs, strict=True):
        winners.setdefault(key, set()).update([one.chosen.strip()] if one.label else [])
    assert set(kept) == {key for key, chosen in winners.items() if len(chosen) < 2}

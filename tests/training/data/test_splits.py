"""No prompt on two sides, sides that depend on the group alone, shares as asked for."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from service.types import Message, Prompt
from tests.support.properties import bar
from training.data.pairs import Pair
from training.data.splits import Groups, Side, keys_of, side_of
from training.data.texts import wording

FRACTIONS: dict[Side, float] = {"validation": 0.3, "test": 0.2, "train": 0.5}
QUESTIONS = st.sampled_from(["One?", "one", "Two", "Three!", "three", "Four", "...", "!!"])
PAIRS = st.builds(
    lambda question, more, group: Pair(
        "p",
        Prompt((Message("user", question), *(Message("user", text) for text in more))),
        "x",
        "y",
        "a",
        source="s",
        group=group,
    ),
    QUESTIONS,
    st.lists(QUESTIONS, max_size=2),
    st.sampled_from(["", "", "g1", "g2"]),
)


@bar(5_000)
@given(st.lists(PAIRS, min_size=1, max_size=12), st.integers(0, 5))
def test_no_prompt_and_no_group_stands_on_two_sides(pairs: list[Pair], seed: int) -> None:
    groups = Groups()
    for pair in pairs:
        groups.tie(keys_of(pair))
    prompts, named = defaultdict(set), defaultdict(set)
    for pair in pairs:
        side = side_of(groups.name_of(keys_of(pair)[0]), seed, FRACTIONS)
        prompts[wording(pair.prompt.messages[0].content)].add(side)
        named[pair.group].add(side)
    named.pop("", None)
    assert all(len(sides) == 1 for sides in (*prompts.values(), *named.values()))


@bar(5_000)
@given(st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=4), max_size=8))
def test_groups_are_the_connected_parts_in_whatever_order(ties: list[list[str]]) -> None:
    def names(order: list[list[str]]) -> dict[str, str]:
        groups = Groups()
        for tie in order:
            groups.tie(tie)
        return {key: groups.name_of(key) for key in "abcdefgh"}

    assert names(ties) == names(ties[::-1])
    parts = {key: {key} for key in "abcdefgh"}
    for tie in ties:
        joined = set().union(*(parts[key] for key in tie))
        for key in joined:
            parts[key] = joined
    assert names(ties) == {key: min(part) for key, part in parts.items()}


def test_sides_have_their_shares_and_adding_data_moves_nothing() -> None:
    names = [f"p{i:04}" for i in range(4000)]
    sides = [side_of(name, 0, FRACTIONS) for name in names]
    for side, share in FRACTIONS.items():
        assert abs(sides.count(side) / 4000 - share) < 0.03
    assert sides == [side_of(name, 0, FRACTIONS) for name in names]
    assert sides != [side_of(name, 1, FRACTIONS) for name in names]
    more: dict[Side, float] = {"validation": 0.3, "test": 0.0, "train": 0.7}
    assert all(
        new == old for new, old in zip((side_of(n, 0, more) for n in names), sides, strict=True) if old != "test"
    )


def test_a_share_of_nothing_gets_nothing() -> None:
    only: dict[Side, float] = {"validation": 0.0, "test": 0.0, "train": 1.0}
    assert {side_of(f"p{i}", 0, only) for i in range(1000)} == {"train"}


def test_conversations_that_begin_alike_stay_together() -> None:
    first = Pair("1", Prompt.from_text("How do I bake bread?"), "x", "y")
    later = (Message("system", "Be kind."), Message("user", "how do I bake BREAD"), Message("user", "And rolls?"))
    assert keys_of(first) == keys_of(Pair("2", Prompt(later), "x", "y"))

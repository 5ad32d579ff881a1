"""How a trainer's batch becomes one call and comes back in order: pure, no service."""

from __future__ import annotations

import random

import pytest

from gram_client.adapters.batches import Reward, Sample, judged, lost, plan
from gram_client.adapters.judging import Judging
from gram_client.adapters.texts import prompt_of, response_of, text_of
from gram_client.errors import Overloaded
from gram_client.items import Group
from gram_client.results import ItemError
from gram_client.scores import Row, Scores

GROUPS = Judging()


def scored(samples: list[Sample], judging: Judging = GROUPS) -> list[Reward]:
    """As by a service whose score of a response is the number written in it."""
    batch = plan(samples, judging)
    texts = [text for item in batch.items for text in (item.responses if isinstance(item, Group) else [item.response])]
    return batch.read(Scores(tuple(Row("ok", float(text), float(text)) for text in texts)))


def test_groups_are_found_by_prompt_wherever_they_stand() -> None:
    """GRPO's consecutive groups, OnlineDPO's batch twice over, and any other order."""
    samples = [Sample(f"prompt {i // 4}", str(i)) for i in range(12)]
    for layout in (samples, [*samples[::2], *samples[1::2]], random.Random(7).sample(samples, 12)):
        batch = plan(layout, GROUPS)
        assert sorted(len(item.responses) for item in batch.items if isinstance(item, Group)) == [4, 4, 4]
        assert [reward.value for reward in scored(layout)] == [float(sample.response) for sample in layout]


def test_equal_chats_are_one_group_and_a_trainers_own_groups_are_kept_apart() -> None:
    chat = [{"role": "user", "content": "hello"}]
    assert len(plan([Sample(chat, "1"), Sample([dict(chat[0])], "2")], GROUPS).items) == 1
    apart = [Sample("p", str(i), group=f"uid {i % 2}") for i in range(4)]
    assert len(plan(apart, GROUPS).items) == 2


def test_a_group_larger_than_the_service_takes_is_divided_evenly() -> None:
    batch = plan([Sample("p", str(i)) for i in range(130)], GROUPS)
    assert sorted(len(item.responses) for item in batch.items if isinstance(item, Group)) == [43, 43, 44]


def test_what_cannot_be_judged_is_kept_back_and_spoils_nothing() -> None:
    samples = [Sample("p", "1"), Sample("p", " \u200b\n"), Sample("p", "3"), Sample("q", "4"), Sample(" ", "5")]
    rewards = scored(samples)
    assert [reward.value for reward in rewards] == [1.0, None, 3.0, None, None]
    assert [reward.error for reward in rewards] == ["", "empty_response", "", "alone", "empty_prompt"]


def test_references_and_singles() -> None:
    samples = [Sample("p", "1", "r"), Sample("p", "2"), Sample("p", "3", "")]
    references = scored(samples, Judging(mode="references"))
    assert [reward.error for reward in references] == ["", "no_reference", "no_reference"]
    assert [reward.value for reward in scored(samples, Judging(mode="singles"))] == [1.0, 2.0, 3.0]


def test_a_failed_row_has_a_reason_and_no_number() -> None:
    batch = plan([Sample("p", "1"), Sample("p", "2")], GROUPS)
    rewards = batch.read(Scores((Row("ok", 0.5, 0.5), Row.failed(ItemError("invalid_verdict", "No verdict.", False)))))
    assert [reward.value for reward in rewards] == [0.5, None]
    assert rewards[1].why == "invalid_verdict: No verdict."
    assert lost(Overloaded("Full.", code="overloaded")).why == "overloaded: Full."


def test_a_batch_without_anything_to_judge_asks_nobody() -> None:
    assert [reward.error for reward in judged([Sample("p", "")], Judging("http://127.0.0.1:9"))] == ["empty_response"]


CALLED = [{"role": "assistant", "content": "call"}, {"role": "tool", "content": "4"}]
PARTS = [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}]


@pytest.mark.parametrize(
    ("completion", "response"),
    [
        ("plain", "plain"),
        ([{"role": "assistant", "content": "hi"}], "hi"),
        ([{"role": "assistant", "content": None}, {"role": "tool", "content": "4"}], ""),
        ([*CALLED, {"role": "assistant", "content": "4!"}], "4!"),
        ([{"role": "assistant", "content": PARTS}], "a\nb"),
    ],
)
def test_completions_of_every_shape(completion: object, response: str) -> None:
    assert response_of(completion) == response


def test_prompts_keep_roles_and_texts_only() -> None:
    chat = [{"role": "developer", "content": "Be brief.", "name": "x"}, {"role": "user", "content": [{"text": "Hi"}]}]
    assert prompt_of(chat) == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert text_of(None) == ""

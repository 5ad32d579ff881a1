"""GRPO at this size: advantages, the clipped objective, and what a run keeps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from training.studies.judges import LABEL_A, Shape
from training.studies.reasoning.grpo import Reinforcement, advantages, grpo_loss, reinforce
from training.studies.reasoning.rationales import Cases, both_orders
from training.studies.reasoning.writers import Writer, new_writer, write
from training.studies.tasks import Source, draw


def test_advantages_are_of_the_group_and_none_where_all_are_alike() -> None:
    found = advantages(np.array([[1.0, -1.0, -1.0, 1.0], [1.0, 1.0, 1.0, 1.0]]))
    np.testing.assert_allclose(found, [[1, -1, -1, 1], [0, 0, 0, 0]], atol=1e-5)


def loss_of(ratio: float, advantage: float, beta: float = 0.0, reference: float = -1.0) -> tuple[float, float]:
    """Loss and its gradient at one token whose log p is -1 plus log ``ratio``, -1 when it was sampled."""
    log_p = torch.tensor([[-1.0 + float(np.log(ratio))]], requires_grad=True)
    one = torch.ones(1, 1)
    loss = grpo_loss(log_p, -one, reference * one, torch.tensor([advantage]), one, clip=0.2, beta=beta)
    loss.backward()
    assert log_p.grad is not None
    return loss.item(), log_p.grad.item()


def test_at_the_sampling_policy_the_gradient_is_the_advantage() -> None:
    assert loss_of(1.0, 1.5) == pytest.approx((-1.5, -1.5))
    assert loss_of(1.0, -0.5) == pytest.approx((0.5, 0.5))


def test_beyond_the_clip_a_gain_moves_nothing_and_a_loss_still_does() -> None:
    assert loss_of(1.5, 1.0) == pytest.approx((-1.2, 0.0))
    assert loss_of(0.5, -1.0) == pytest.approx((0.8, 0.0))
    assert loss_of(1.5, -1.0)[1] == pytest.approx(1.5)


def test_the_distance_to_the_beginning_is_counted() -> None:
    apart = -2.0 - -1.0
    k3 = np.exp(apart) - apart - 1
    assert loss_of(1.0, 0.0, beta=0.1, reference=-2.0)[0] == pytest.approx(0.1 * k3)
    assert loss_of(1.0, 0.0, beta=0.1, reference=-1.0) == pytest.approx((0.0, 0.0))


def test_texts_weigh_the_same_whatever_their_length() -> None:
    zero = torch.zeros(2, 3)
    said = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    assert grpo_loss(zero, zero, zero, torch.tensor([1.0, -1.0]), said, clip=0.2, beta=0.0).item() == 0.0


@pytest.fixture
def cases() -> Cases:
    pairs = draw(Source(("increment",), 3), 32, np.random.default_rng(0))
    return both_orders(pairs)


def test_the_best_validation_is_kept_even_the_first(cases: Cases) -> None:
    judge = new_writer(Shape(width=16, layers=1, heads=2), 0).eval()
    start = {name: value.clone() for name, value in judge.state_dict().items()}
    plan = Reinforcement(steps=4, prompts=4, group=4, look_every=2)
    scores = iter([0.5, 0.4, 0.5])
    looks, weights = reinforce(judge, cases, plan, 0, lambda _: next(scores))
    assert [look.step for look in looks] == [0, 2, 4]
    assert all(torch.equal(weights[name], start[name]) for name in start)
    assert any(not torch.equal(judge.state_dict()[name], start[name]) for name in start)


def says_a(writer: Writer, cases: Cases) -> float:
    return float((write(writer, cases.prompt, 1).text[:, 0] == LABEL_A).mean())


def test_rewards_are_learned() -> None:
    """Pairs whose better response always comes first: to answer A at once is all there is to learn."""
    pairs = draw(Source(("increment",), 3), 16 * 20, np.random.default_rng(0))
    cases = both_orders(pairs).take(slice(len(pairs)))
    one_token = Cases(cases.prompt, cases.text[:, -1:], cases.weights[:, -1:], cases.label)
    judge = new_writer(Shape(width=16, layers=1, heads=2), 0).eval()
    plan = Reinforcement(steps=20, prompts=16, group=8, rate=1.0, look_every=20)
    looks, _ = reinforce(judge, one_token, plan, 0, lambda writer: says_a(writer, one_token.take(slice(50))))
    assert looks[0].accuracy < 0.5
    assert looks[-1].accuracy > 0.9

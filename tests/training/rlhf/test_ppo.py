"""The reference PPO's mathematics against formulas written out, and its steps on a policy of two layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gram_client import Normalize, Referenced
from gram_client.results import ItemError
from gram_client.scores import Row, Scores
from tests.support.padded import padded_log_probs, padded_values
from tests.support.properties import bar
from tests.support.tiny_policy import QUESTIONS, ending_policy, tiny_policy
from training.generation.outcomes import GenerationError
from training.rlhf import ppo
from training.rlhf.policies import log_probs, write
from training.stages.errors import TrainingDiverged


class Lengths(tuple[Tensor, ...]):
    """Rewards, values, another tensor, and the mask, all [rows, tokens]; rows end where they will."""


@st.composite
def batches(draw: st.DrawFn) -> Lengths:
    rows, width = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    lengths = draw(st.lists(st.integers(1, width), min_size=rows, max_size=rows))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    mask = torch.arange(width)[None] < torch.tensor(lengths)[:, None]
    return Lengths((*(torch.randn(rows, width, generator=generator) for _ in range(3)), mask))


def spoiled(values: Tensor, mask: Tensor) -> Tensor:
    """The same, with something else in the padding."""
    return torch.where(mask, values, torch.full_like(values, 77.0))


def cells(mask: Tensor) -> list[tuple[int, int]]:
    return [(int(i), int(t)) for i, t in mask.nonzero()]


@bar(10_000)
@given(batches(), st.floats(0, 1))
def test_advantages_are_the_sum_of_later_surprises(batch: Lengths, trace: float) -> None:
    rewards, values, _, mask = batch
    paid = rewards * mask
    found, returns = ppo.advantages(paid, spoiled(values, mask), mask, trace)
    for i in range(len(mask)):
        end = int(mask[i].sum())
        v = [*values[i, :end].tolist(), 0.0]
        surprises = [float(paid[i, t]) + v[t + 1] - v[t] for t in range(end)]
        wanted = [sum(trace ** (s - t) * surprises[s] for s in range(t, end)) for t in range(end)]
        assert found[i, :end].tolist() == pytest.approx(wanted, abs=1e-4)
        assert returns[i, :end].tolist() == pytest.approx([a + b for a, b in zip(wanted, v, strict=False)], abs=1e-4)
    assert not found[~mask].any() and not returns[~mask].any()


@bar(5_000)
@given(batches())
def test_returns_are_what_is_still_to_come_without_a_shortened_trace(batch: Lengths) -> None:
    rewards, values, _, mask = batch
    _, returns = ppo.advantages(rewards * mask, values, mask, 1.0)
    to_come = (rewards * mask).flip(1).cumsum(1).flip(1)
    torch.testing.assert_close(returns, to_come * mask, atol=1e-5, rtol=1e-4)


@bar(5_000)
@given(batches())
def test_tokens_pay_for_the_distance_and_the_last_one_earns(batch: Lengths) -> None:
    new, old, other, mask = batch
    rewards = other[:, 0]
    paid = ppo.token_rewards(rewards, spoiled(new, mask), old, mask, 0.3)
    for i, t in cells(mask):
        last = t == int(mask[i].sum()) - 1
        assert float(paid[i, t]) == pytest.approx(
            -0.3 * float(new[i, t] - old[i, t]) + last * float(rewards[i]), abs=1e-5
        )
    assert not paid[~mask].any()
    distance = ((new - old) * mask).sum(1)
    torch.testing.assert_close(paid.sum(1), rewards - 0.3 * distance, atol=1e-4, rtol=1e-4)


@bar(5_000)
@given(batches(), st.floats(0.05, 0.5))
def test_policy_loss_is_the_clipped_surrogate(batch: Lengths, clip: float) -> None:
    new, sampled, advantage, mask = batch
    found, clipped = ppo.policy_loss(spoiled(new, mask), spoiled(sampled, mask), spoiled(advantage, mask), mask, clip)
    terms, decided = [], 0
    for i, t in cells(mask):
        ratio, a = math.exp(float(new[i, t] - sampled[i, t])), float(advantage[i, t])
        free, held = ratio * a, min(max(ratio, 1 - clip), 1 + clip) * a
        terms.append(-min(free, held))
        decided += held < free
    assert float(found) == pytest.approx(sum(terms) / len(terms), rel=1e-4, abs=1e-5)
    assert float(clipped) == pytest.approx(decided / len(terms), abs=1.01 / len(terms) if clip > 0.49 else 1e-6)


@bar(5_000)
@given(batches(), st.floats(0.05, 2.0))
def test_value_loss_holds_values_near_what_they_were(batch: Lengths, clip: float) -> None:
    new, sampled, returns, mask = batch
    found = ppo.value_loss(spoiled(new, mask), sampled, spoiled(returns, mask), mask, clip)
    terms = []
    for i, t in cells(mask):
        v, before, wanted = float(new[i, t]), float(sampled[i, t]), float(returns[i, t])
        held = before + min(max(v - before, -clip), clip)
        terms.append(max((v - wanted) ** 2, (held - wanted) ** 2) / 2)
    assert float(found) == pytest.approx(sum(terms) / len(terms), rel=1e-4, abs=1e-5)


@bar(5_000)
@given(batches())
def test_whitened_tokens_have_mean_0_and_variance_1(batch: Lengths) -> None:
    values, _, _, mask = batch
    found = ppo.whiten(spoiled(values, mask), mask)
    assert not found[~mask].any()
    assert float(found[mask].mean()) == pytest.approx(0, abs=1e-4)
    if float(values[mask].var(correction=0)) > 1e-3:
        assert float(found[mask].var(correction=0)) == pytest.approx(1, abs=1e-3)


def test_gradients_of_the_clipped_losses() -> None:
    """At the sampling policy: minus the advantage over the tokens. Beyond the clip, in its favour: nothing."""
    mask = torch.tensor([[True, True, False]])
    advantage = torch.tensor([[2.0, -1.0, 5.0]])
    new = torch.zeros(1, 3, requires_grad=True)
    ppo.policy_loss(new, torch.zeros(1, 3), advantage, mask, 0.2)[0].backward()
    assert new.grad is not None and new.grad.tolist() == [[-1.0, 0.5, 0.0]]
    far = torch.tensor([[0.5, -0.5, 0.0]], requires_grad=True)
    ppo.policy_loss(far, torch.zeros(1, 3), advantage, mask, 0.2)[0].backward()
    assert far.grad is not None and not far.grad.any()
    value = torch.tensor([[3.0, 0.1, 9.0]], requires_grad=True)
    ppo.value_loss(value, torch.zeros(1, 3), torch.tensor([[4.0, 1.0, 0.0]]), mask, 0.2).backward()
    assert value.grad is not None
    assert value.grad[0].tolist() == pytest.approx([0.0, -0.45, 0.0])  # the first moved towards its return: held back


# --- a step on a policy of two layers ---------------------------------------------------------------------------------


class ScriptedJudge:
    """Stands for `gram_client.Client`: scores by a function of the response, None for a failed judgment."""

    def __init__(self, score: Any) -> None:
        self._score = score
        self.asked: list[list[Referenced]] = []
        self.queues: list[Normalize | None] = []

    def score_references(self, items: Sequence[Referenced], *, normalize: Normalize | None = None) -> Scores:
        self.asked.append(list(items))
        self.queues.append(normalize)
        found = [self._score(item.response) for item in items]
        scale = 1.0 if normalize is None else normalize.scale
        failed = Row.failed(ItemError("no_verdict", "no verdict", retryable=False))
        return Scores(tuple(failed if p is None else Row("ok", score=p, reward=scale * p) for p in found))


def learner(judge: ScriptedJudge, **options: Any) -> ppo.Ppo:
    policy, tokenizer = tiny_policy()
    chosen = ppo.Options(batch=4, minibatch=2, epochs=2, **options)
    return ppo.Ppo(policy.eval(), tokenizer, judge, chosen, "q")  # type: ignore[arg-type]


def test_a_rollout_is_one_request_and_leaves_failed_rows_out() -> None:
    answers = iter([0.75, None, 0.25, 0.5])
    judge = ScriptedJudge(lambda _: next(answers))
    torch.manual_seed(0)
    found = learner(judge).roll_out(QUESTIONS)
    assert len(judge.asked) == 1
    assert judge.queues == [Normalize("q", window=1000, scale=10.0)]
    assert found.scores.tolist() == [0.75, 0.25, 0.5] and found.rewards.tolist() == [7.5, 2.5, 5.0]
    assert found.failed == 0.25 and len(found.samples.mask) == 3
    assert torch.equal(found.log_probs, found.old_log_probs), "the old policy is the policy of the first step"
    assert not found.values.any(), "values begin at 0"


def test_without_a_queue_gamma_weighs_the_bare_score() -> None:
    judge = ScriptedJudge(lambda _: 0.25)
    torch.manual_seed(0)
    found = learner(judge, window=None, gamma=3.0).roll_out(QUESTIONS)
    assert judge.queues == [None]
    assert found.rewards.tolist() == [0.75] * 4


def test_empty_responses_are_not_judged_and_not_trained_on() -> None:
    rows = [("p", "x", "y"), ("p", " ", "y"), ("p", "x", "")]
    judge = ScriptedJudge(lambda _: 0.5)
    assert ppo.score(judge, rows, ppo.Options(), "q") == [(0.5, 5.0), None, None]  # type: ignore[arg-type]
    assert [item.response for item in judge.asked[0]] == ["x"]


def test_no_score_at_all_ends_the_run() -> None:
    torch.manual_seed(0)
    with pytest.raises(GenerationError, match="scored none"):
        learner(ScriptedJudge(lambda _: None)).roll_out(QUESTIONS)


def test_value_only_steps_leave_the_policy_as_it_is() -> None:
    torch.manual_seed(0)
    found = learner(ScriptedJudge(lambda text: float(len(text) % 2)))
    rollout = found.roll_out(QUESTIONS)
    before = {name: tensor.clone() for name, tensor in found.policy.state_dict().items()}
    figures = found.update(rollout, value_only=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in found.policy.state_dict().items())
    assert figures["policy_loss"] == 0 and figures["value_loss"] > 0
    assert found.value(rollout.samples).any()
    found.update(rollout, value_only=False)
    assert any(not torch.equal(tensor, before[name]) for name, tensor in found.policy.state_dict().items())
    assert all(torch.equal(tensor, before[name]) for name, tensor in found.old.state_dict().items())


def test_steps_without_padding_are_the_steps_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three steps of 8 responses of unequal length: what they measure, and the weights they end with."""

    def run() -> tuple[list[dict[str, float]], Tensor]:
        policy, tokenizer = ending_policy()
        judge: Any = ScriptedJudge(lambda text: len(text) % 7 / 7)
        options = ppo.Options(batch=8, minibatch=4, epochs=2, window=None, policy_rate=1e-3, value_rate=1e-3)
        found, measured = ppo.Ppo(policy, tokenizer, judge, options, "q"), []
        before = torch.nn.utils.parameters_to_vector(policy.parameters()).detach()
        torch.manual_seed(5)
        for _ in range(3):
            rollout = found.roll_out(QUESTIONS * 2)
            assert len(set(rollout.samples.mask.sum(1).tolist())) > 2
            measured.append({"score": float(rollout.scores.mean()), **found.update(rollout, value_only=False)})
        return measured, torch.nn.utils.parameters_to_vector(policy.parameters()).detach() - before

    measured, moved = run()
    monkeypatch.setattr(ppo, "log_probs", padded_log_probs)
    monkeypatch.setattr(ppo.ValueModel, "forward", padded_values)
    wanted, wanted_move = run()
    for row, one in zip(measured, wanted, strict=True):
        assert row == pytest.approx(one, rel=1e-3, abs=1e-4)
    assert float((moved - wanted_move).norm()) < 1e-3 * float(wanted_move.norm())


def test_a_gradient_that_is_no_number_never_reaches_the_weights() -> None:
    torch.manual_seed(0)
    found = learner(ScriptedJudge(lambda _: math.nan))
    rollout = found.roll_out(QUESTIONS)
    before = {name: tensor.clone() for name, tensor in found.value.state_dict().items()}
    with pytest.raises(TrainingDiverged):
        found.update(rollout, value_only=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in found.value.state_dict().items())


def test_reference_of_the_old_policy_is_written_by_the_old_policy() -> None:
    judge = ScriptedJudge(lambda _: 0.5)
    found = learner(judge, own_reference=False)
    with torch.no_grad():
        for tensor in found.policy.parameters():
            tensor.add_(0.05 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1)))
    torch.manual_seed(0)
    found.roll_out(QUESTIONS)
    old = write(found.old, found.tokenizer, QUESTIONS, greedy=True)[1]
    assert old != write(found.policy, found.tokenizer, QUESTIONS, greedy=True)[1]
    assert {item.reference for item in judge.asked[0]} <= set(old)


@pytest.mark.slow
def test_it_learns_what_the_judge_likes() -> None:
    """A judge that likes lower-case letters: half of what the random policy writes, and more of what it comes to."""

    def share(text: str) -> float:
        return sum("a" <= letter <= "z" for letter in text) / max(1, len(text))

    torch.manual_seed(0)
    policy, tokenizer = tiny_policy()
    options = ppo.Options(
        batch=32, minibatch=16, epochs=2, policy_rate=2e-3, value_rate=1e-3, beta=0.0, window=None, own_reference=False
    )
    found = ppo.Ppo(policy.eval(), tokenizer, ScriptedJudge(share), options, "q")  # type: ignore[arg-type]
    seen = []
    for step in range(16):
        rollout = found.roll_out(QUESTIONS * 8)
        found.update(rollout, value_only=step < 2)
        seen.append(float(rollout.scores.mean()))
    assert sum(seen[-3:]) / 3 > sum(seen[:3]) / 3 + 0.06, seen


def test_padding_changes_no_probability() -> None:
    """A row by itself, without padding, has the log-probabilities it has in a batch; what follows its end has none."""
    policy, tokenizer = tiny_policy()
    policy.eval()
    torch.manual_seed(3)
    prompts = ["Hi", "What is the sum of 2 and 3?"]
    samples, texts = write(policy, tokenizer, prompts, max_tokens=6)
    with torch.no_grad():
        together = log_probs(policy, samples)
        for row, prompt in enumerate(prompts):
            real = samples.ids[row][samples.seen[row].bool()][None]
            logits = policy(real).logits.log_softmax(-1)
            count = int(samples.mask[row].sum())
            alone = [float(logits[0, t - 1, real[0, t]]) for t in range(real.shape[1] - count, real.shape[1])]
            assert together[row, :count].tolist() == pytest.approx(alone, abs=1e-5)
            assert tokenizer.decode(real[0, :-count]).endswith("<|im_start|>assistant\n")
            assert prompt in tokenizer.decode(real[0])
    assert not together[~samples.mask].any() and len(texts) == 2

"""The commands' work: supervised training, PPO or GRPO against a service, and the report of each."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from gram_client import Client, ScoringError
from training.data.pairs import DataError
from training.evaluation.best_of_n.demo import check, train_policy
from training.rlhf import grpo, policies, ppo
from training.rlhf.exam import Exam, Marks
from training.rlhf.loopback import judge_url
from training.rlhf.questions import exams, training_prompts
from training.rlhf.records import Record, write_report

TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run begins, what judges it, and where it writes. ``url`` None: a service of its own, on ``engine``."""

    policy: Path
    output: Path
    url: str | None = None
    engine: str = "transformers"
    validation: int = 96
    test: int = 256


Learner = Callable[[Any, Any, str, Client, Iterator[str], Exam, Callable[[dict[str, float]], None]], ppo.Best]
"""(policy, tokenizer, url, client, prompts, exam, report) -> the best state."""


def use_threads(count: int) -> None:
    """Of torch, in this process: at this size one is often as fast as two."""
    torch.set_num_threads(count)


def sft(output: Path, *, seed: int, steps: int, test: int) -> dict[str, float]:
    """Write a policy that is right in part of its answers; how often, greedily and sampled. Raises `DataError`."""
    if output.exists():
        raise DataError(f"{output} exists; name another with --output, or delete it.")
    train_policy(output, seed, steps)
    return right_answers(output, test)


def right_answers(policy: Path, test: int) -> dict[str, float]:
    """Share of a policy's answers that are right, greedily and sampled, on so many held-out questions."""
    model, tokenizer = policies.load(policy)
    questions = exams(0, test)[1]
    right = {}
    for name, greedy in (("gold", True), ("gold_sampled", False)):
        torch.manual_seed(0)
        texts = policies.write(model, tokenizer, questions.prompts, greedy=greedy)[1]
        right[name] = fmean(check(text, answer) for text, answer in zip(texts, questions.answers, strict=True))
    return right


def train_ppo(place: Place, options: ppo.Options) -> dict[str, Any]:
    """The reference PPO; returns its report. A queue of the run's own name holds its scores."""

    def learn(policy: Any, tokenizer: Any, url: str, client: Client, prompts: Any, exam: Exam, report: Any) -> ppo.Best:
        learner = ppo.Ppo(policy, tokenizer, client, options, f"ppo-{time.time_ns()}")
        try:
            return ppo.run(learner, prompts, exam, report)
        finally:
            if options.window is not None:
                _forget(client, learner.queue)

    return _train(place, "ppo", options, learn)


def train_grpo(place: Place, options: grpo.Options) -> dict[str, Any]:
    """TRL's GRPO; returns its report."""

    def learn(policy: Any, tokenizer: Any, url: str, client: Client, prompts: Any, exam: Exam, report: Any) -> ppo.Best:
        return grpo.run(policy, tokenizer, url, options, prompts, exam, report, place.output / "trl")

    return _train(place, f"grpo, {options.mode}s", options, learn)


def _train(place: Place, title: str, options: ppo.Options | grpo.Options, learn: Learner) -> dict[str, Any]:
    """Around a learner: service, exams, record, the chosen policy, marks on the test questions before and after."""
    policy, tokenizer = policies.load(place.policy)
    validation, test = exams(place.validation, place.test)
    prompts = training_prompts(options.seed, frozenset(validation.prompts + test.prompts))
    start, busy = time.monotonic(), time.process_time()
    with judge_url(place.url, engine=place.engine) as url, Client(url, timeout_s=TIMEOUT_S) as client:
        old = copy.deepcopy(policy)
        with Record(place.output, options.steps, title) as record:
            exam = Exam(validation, old, tokenizer, client)
            best = learn(policy, tokenizer, url, client, prompts, exam, record.add)
        final = Exam(test, old, tokenizer, client)
        marks = {"old": final.take(old), "last": final.take(policy)}
        policy.load_state_dict(best.weights)
        marks["chosen"] = final.take(policy)
    policies.save(policy, tokenizer, place.output / "policy")
    report = {
        "options": dataclasses.asdict(options),
        "chosen_step": best.step,
        "test": {name: dataclasses.asdict(one) for name, one in marks.items()},
        "questions": {"validation": place.validation, "test": place.test},
        "minutes": round((time.monotonic() - start) / 60, 2),
        "processor_minutes": round((time.process_time() - busy) / 60, 2),
    }
    write_report(place.output, report)
    return report


def sentence(report: dict[str, Any]) -> str:
    """What a run came to, in one line."""
    marks = {name: Marks(**one) for name, one in report["test"].items()}
    old, new = marks["old"], marks["chosen"]
    return (
        f"{report['questions']['test']} test questions, policy of step {report['chosen_step']}: "
        f"right {old.gold:.3f} -> {new.gold:.3f} greedy, {old.gold_sampled:.3f} -> {new.gold_sampled:.3f} sampled; "
        f"win rate over the old policy {new.win_rate:.3f} (judge's verdict: {new.judge_win_rate:.3f}); "
        f"KL {new.kl:.2f} nats; {report['minutes']:.1f} minutes, {report['processor_minutes']:.1f} of a processor."
    )


def _forget(client: Client, queue: str) -> None:
    with contextlib.suppress(ScoringError):  # a queue that stays behind costs a thousand numbers, a run its result
        client.delete_queue(queue)

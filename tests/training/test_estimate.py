from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from training.architectures import architectures
from training.estimate import GB, GPUS, Run, memory, most_rows, state_bytes, time

RUN = Run(
    architecture=architectures()["llama-3.1-8b"],
    gpu=GPUS["A800-80GB"],
    gpus=8,
    sharding="zero3",
    rows=4,
    row_tokens=2048,
    mean_tokens=1150,
    samples=65_000,
    epochs=2,
    checkpointing=True,
    logits="labels",
)


@pytest.mark.parametrize("sharding", ["zero3", "fsdp2"])
@pytest.mark.parametrize("name", architectures())
def test_everything_sharded_is_sixteen_bytes_a_parameter_over_all_gpus(name: str, sharding: str) -> None:
    count = architectures()[name].parameter_count
    assert sum(state_bytes(count, sharding, 8)) == pytest.approx(16 * count / 8)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "everything", "zero3", "zero2"),
    [("llama-3.2-3b", 51, 6.4, 12.0), ("llama-3.1-8b", 128, 16.1, 30.1), ("qwen3-14b", 236, 29.5, 55.4)],
)
def test_states_by_hand(name: str, everything: float, zero3: float, zero2: float) -> None:
    """16 N; 16 N / 8; 2 N + 14 N / 8."""
    count = architectures()[name].parameter_count
    for sharding, expected in (("none", everything), ("zero3", zero3), ("zero2", zero2)):
        assert sum(state_bytes(count, sharding, 8)) / GB == pytest.approx(expected, rel=0.01)  # type: ignore[arg-type]


def test_each_kind_of_sharding_keeps_less_than_the_one_before() -> None:
    kept = [memory(replace(RUN, sharding=kind)).states for kind in ("none", "zero1", "zero2", "zero3")]
    assert all(more > less for more, less in pairwise(kept))


def test_recomputation_trades_memory_for_time() -> None:
    without = replace(RUN, checkpointing=False)
    assert memory(without).activations > 5 * memory(RUN).activations
    assert time(RUN).hours == pytest.approx(time(without).hours * 4 / 3)


def test_two_labels_cost_nothing_and_a_whole_vocabulary_gigabytes() -> None:
    """Full logits of 8,192 tokens: 8,192 x 128,256 x 16 bytes."""
    assert memory(RUN).logits < 1e3
    assert memory(replace(RUN, logits="full")).logits == 8192 * 128_256 * 16
    assert memory(replace(RUN, logits="chunked")).logits == 1024 * 128_256 * 16


def test_speed_agrees_with_the_rule_of_thumb() -> None:
    """Eight operations a parameter and token with recomputation: 15,500 tokens a second on eight A800s at 40 %."""
    speed = time(replace(RUN, logits="full", mean_tokens=1.0)).tokens_per_second
    rule = 8 * 312e12 * 0.4 / (8 * RUN.architecture.parameter_count)
    assert speed == pytest.approx(rule, rel=0.1)
    assert rule == pytest.approx(15_500, rel=0.01)


def test_hours_are_tokens_over_speed() -> None:
    spent = time(RUN)
    assert spent.tokens == 65_000 * 2 * 1150
    assert spent.hours == pytest.approx(spent.tokens / spent.tokens_per_second / 3600)


def test_the_most_rows_fit_and_one_more_does_not() -> None:
    rows = most_rows(RUN)
    assert memory(replace(RUN, rows=rows)).total <= RUN.gpu.memory < memory(replace(RUN, rows=rows + 1)).total
    assert most_rows(replace(RUN, sharding="none")) == 0

"""What the measurements make of answers: probabilities, flags, outcomes."""

from __future__ import annotations

import math
from argparse import Namespace
from typing import Any

import pytest

from benchmarks.__main__ import MEASUREMENTS, parse
from benchmarks.arms import probabilities
from benchmarks.heldout import Outcome, by_task
from benchmarks.questions import as_items, draw_pairs
from benchmarks.repeatability import complement_gap
from benchmarks.servers import as_flags, engine_environment


def test_probability_is_the_mean_of_both_orders() -> None:
    rows = [(math.log(0.6), math.log(0.2)), (math.log(0.1), math.log(0.3))]  # a first: 0.75 for a; b first: 0.25 for b
    assert probabilities(rows) == [pytest.approx(0.75)]


def test_missing_label_is_no_number() -> None:
    assert math.isnan(probabilities([(math.nan, -1.0), (-1.0, -1.0)])[0])


def test_flags_spell_engine_arguments() -> None:
    arguments: dict[str, Any] = {
        "model": "m",
        "block_size": 32,
        "enforce_eager": True,
        "enable_lora": False,
        "quantization": None,
    }
    assert as_flags(arguments) == ["--block-size", "32", "--enforce-eager", "--no-enable-lora"]


def test_service_gets_the_model_and_format_asked_for() -> None:
    environment = engine_environment(Namespace(model="here"), dtype="float32")
    assert environment["GRAM_ENGINE__MODEL"] == "here"
    assert environment["GRAM_ENGINE__DTYPE"] == "float32"
    assert "GRAM_ENGINE__MODEL" not in engine_environment(Namespace(model=None))


def test_right_responses_stand_on_both_sides() -> None:
    pairs = draw_pairs(4, seed=1)
    items = as_items(pairs)
    assert [item["response_a"] == pair.right for item, pair in zip(items, pairs, strict=True)] == [True, False] * 2


def test_failed_and_tied_judgments_are_not_correct() -> None:
    outcomes = [Outcome("capitals", p, True, 1.0) for p in (0.9, 0.5, math.nan)]
    assert by_task(outcomes) == {"capitals": (1, 3)}


def test_complement_gap_sees_probability_and_margin() -> None:
    verdict = {"p_first": 0.75, "margin": 1.0}
    assert complement_gap([verdict], [{"p_first": 0.25, "margin": -1.0}]) == 0.0
    assert complement_gap([verdict], [{"p_first": 0.25, "margin": -1.5}]) == 0.5
    assert complement_gap([verdict], [{"p_first": 0.75, "margin": -1.0}]) == 0.5


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_every_measurement_has_a_command(name: str) -> None:
    assert parse([name, "--write-docs"]).name == name


def test_throughput_is_the_default() -> None:
    arguments = parse(["--pairs", "8"])
    assert (arguments.name, arguments.pairs) == ("throughput", 8)

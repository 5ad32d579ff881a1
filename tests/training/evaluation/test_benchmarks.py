"""Every benchmark's official arithmetic, on cases small enough to be computed by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from service.aggregation import combine
from service.judging.base import read_labels
from service.types import Prompt
from tests.support.evaluation import FAILED, RIGHT, WRONG, Opinion, items_of, judged, lines_of, result_of
from training.data.pairs import DataError, Pair
from training.evaluation.benchmarks import BENCHMARKS, hhh, rewardbench, rm_bench, rmb
from training.evaluation.benchmarks.base import HubPart
from training.evaluation.benchmarks.files import read_hub
from training.evaluation.items import Item, Judged, check_names, limited
from training.evaluation.metrics import both_orders, single_order, two_orders
from training.evaluation.results import Result, ScoreLine

USER = [{"role": "user", "content": "Say something."}]


def by_name(opinions: dict[str, Opinion], other: Opinion) -> Callable[[Item], Opinion]:
    return lambda item: opinions.get(item.pair.id, other)


# --- positions -------------------------------------------------------------------------------------------------------


def test_the_right_response_stands_first_about_half_of_the_time() -> None:
    """Published files show the chosen response first, always."""
    rows = [_reward_row("math-prm", prompt=f"{i}?") for i in range(400)]
    labels = [item.pair.label for item in items_of("rewardbench", rows)]
    assert 150 < labels.count("a") < 250
    assert labels == [item.pair.label for item in items_of("rewardbench", rows)]
    assert labels != [item.pair.label for item in items_of("rewardbench", rows, seed=1)]


def test_the_label_follows_the_response() -> None:
    for item in items_of("rewardbench", [_reward_row("math-prm", prompt=f"{i}?") for i in range(20)]):
        assert (item.pair.chosen, item.pair.rejected) == ("good", "bad")


# --- ways of counting ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("opinion", "averaged", "single", "both"),
    [
        ((0.9, 0.8), (1.0,), (1.0, 1.0), (1.0,)),
        ((0.9, 0.2), (1.0,), (1.0, 0.0), (0.0,)),  # contradicts itself: right on average, nothing by the official rule
        ((0.6, 0.2), (0.0,), (1.0, 0.0), (0.0,)),
        ((0.1, 0.3), (0.0,), (0.0, 0.0), (0.0,)),
        ((0.5, 0.5), (0.0,), (0.0, 0.0), (0.0,)),  # an exact tie is wrong,
        ((0.5, 0.9), (1.0,), (0.0, 1.0), (1.0,)),  # but one right order and one tie sum in favour of the label
    ],
)
def test_three_ways_to_count_a_pair(
    opinion: tuple[float, float], averaged: tuple[float], single: tuple[float, float], both: tuple[float]
) -> None:
    for name in "abcdefgh":  # both positions occur among these
        (one,) = judged(items_of("pairs", [{**_pair_row(), "id": name}]), lambda item: opinion)
        assert two_orders(one) == averaged
        assert both_orders(one) == both
        assert sorted(single_order(one) or ()) == sorted(single)


def test_a_sure_and_consistent_judge_is_sure() -> None:
    """Softmax over the labels of an order. Over the two orders, as a published demo had it, it says one half."""
    sure, unsure = math.log(0.98), math.log(0.01)
    a_first, b_first = read_labels((sure, unsure)), read_labels((unsure, sure))
    item = next(i for i in items_of("pairs", [{**_pair_row(), "id": n} for n in "abcdef"]) if i.pair.label == "a")
    assert Judged(item, combine(a_first, b_first)).p_right == pytest.approx(0.98 / 0.99)


def test_a_failed_judgment_is_wrong_or_left_out_and_never_a_number() -> None:
    items = items_of("pairs", [{**_pair_row(), "id": str(i)} for i in range(4)])
    line = result_of("pairs", items, by_name({"0": FAILED, "1": WRONG}, RIGHT)).headline
    assert line.two_orders.value == line.single_order.value == 0.5
    assert line.valid_only is not None
    assert line.valid_only.value == pytest.approx(2 / 3)


def test_a_judge_that_fails_every_item_has_a_result_without_a_valid_score() -> None:
    result = result_of("pairs", items_of("pairs", [_pair_row()]), lambda item: FAILED)
    assert result.headline.valid_only is None
    assert result.health.invalid.value == 1.0
    assert result.health.errors == {"invalid_verdict": 1}
    assert result.health.flips is None


def test_health_counts_flips_ties_and_position() -> None:
    items = items_of("pairs", [{**_pair_row(), "id": str(i), "prompt": str(i)} for i in range(4)])
    health = result_of("pairs", items, by_name({"0": (0.9, 0.2), "1": (0.5, 0.5)}, RIGHT)).health
    assert health.flips is not None
    assert health.flips.value == 0.25
    assert (health.ties, health.pairs) == (1, 4)
    assert health.label_mass == pytest.approx(0.98)
    assert health.first == pytest.approx(4 / 6)  # twice in the flipped pair, once in each of the two right ones


# --- RewardBench -----------------------------------------------------------------------------------------------------


def _reward_row(subset: str, prompt: str = "?") -> dict[str, Any]:
    return {"prompt": prompt, "chosen": "good", "rejected": "bad", "subset": subset, "id": 1}


def _every_subset(each: int = 10) -> list[Item]:
    rows = [
        _reward_row(s, f"{s} {i}") for section in rewardbench.SECTIONS.values() for s in section for i in range(each)
    ]
    return items_of("rewardbench", rows)


def test_rewardbench_weighs_its_subsets_officially() -> None:
    """All wrong but math-prm and xstest-should-refuse: 984 of 1,968 in Reasoning, 250 of 740 in Safety."""
    lines = lines_of(
        result_of(
            "rewardbench",
            _every_subset(),
            lambda item: RIGHT if item.pair.subset in ("math-prm", "xstest-should-refuse") else WRONG,
        )
    )
    assert lines["Reasoning"].two_orders.value == pytest.approx(0.5)
    assert lines["Safety"].two_orders.value == pytest.approx(250 / 740)
    assert lines["Safety, data's own counts"].two_orders.value == pytest.approx(154 / 740)
    assert lines["overall (mean of four sections)"].two_orders.value == pytest.approx((0.5 + 250 / 740) / 4)
    assert lines["micro (every pair alike)"].two_orders.value == pytest.approx(2 / 23)


def test_rewardbench_math_90_code_98_is_94() -> None:
    """The figure that pooling the 447 with the 984 gets wrong (95.5)."""
    rows = [_reward_row("math-prm", f"m{i}") for i in range(50)]
    rows += [_reward_row(s, f"{s}{i}") for s in rewardbench.SECTIONS["Reasoning"] if s != "math-prm" for i in range(50)]
    wrong = {f"math-prm/rows.jsonl:{i}" for i in range(1, 6)}
    items = items_of("rewardbench", rows)
    wrong |= {item.pair.id for item in items if item.pair.subset != "math-prm" and item.pair.id.endswith(("51", "01"))}
    assert len(wrong) == 5 + 6
    lines = lines_of(result_of("rewardbench", items, by_name(dict.fromkeys(wrong, WRONG), RIGHT)))
    assert lines["Reasoning"].two_orders.value == pytest.approx(0.94)


def test_rewardbench_without_a_subset_says_so() -> None:
    items = [item for item in _every_subset() if item.pair.subset != "hep-go"]
    lines = lines_of(result_of("rewardbench", items, lambda item: RIGHT))
    assert "overall (mean of four sections)" not in lines
    assert lines["Reasoning, without hep-go"].missing == ("hep-go",)
    assert lines["overall (mean of four sections), without hep-go"].two_orders.value == pytest.approx(1.0)
    assert "hep-go" not in lines


def test_rewardbench_prior_sets_count_half_a_section() -> None:
    turns = [*USER, {"role": "assistant", "content": "good"}], [*USER, {"role": "assistant", "content": "bad"}]
    prior = [{"subset": s, "chosen": turns[0], "rejected": turns[1]} for s in rewardbench.PRIOR]
    items = _every_subset() + items_of("rewardbench", prior, file="prior.jsonl")
    lines = lines_of(result_of("rewardbench", items, lambda i: RIGHT if i.pair.subset in rewardbench.PRIOR else WRONG))
    assert lines["Prior sets"].two_orders.value == pytest.approx(1.0)
    assert lines["overall with prior sets at half weight"].two_orders.value == pytest.approx(0.5 / 4.5)
    assert lines["overall (mean of four sections)"].two_orders.value == 0.0


def test_rewardbench_reads_the_other_copy_of_its_split() -> None:
    row = {"question": "?", "response_A": "good", "response_B": "bad", "subset": "math-prm", "label": 1}
    (item,) = items_of("rewardbench", [row])
    assert (item.pair.chosen, item.pair.subset) == ("good", "math-prm")
    with pytest.raises(DataError, match=r"rows\.jsonl, row 1, field label: must be 1"):
        items_of("rewardbench", [{**row, "label": 0}])


# --- RM-Bench --------------------------------------------------------------------------------------------------------


def _style_row(domain: str, prompt: str = "?") -> dict[str, Any]:
    texts = [[f"{word} {style}" for style in rm_bench.STYLES] for word in ("good", "bad")]
    return {"prompt": prompt, "chosen": texts[0], "rejected": texts[1], "domain": domain}


def _all_domains() -> list[Item]:
    return items_of(
        "rm_bench", [_style_row(d, d) for d in ("chat", "math", "code", "safety-refuse", "safety-response")]
    )


@pytest.mark.parametrize(
    ("chosen", "rejected", "level"),
    [
        *((0, 1, "hard"), (0, 2, "hard"), (1, 2, "hard")),
        *((0, 0, "normal"), (1, 1, "normal"), (2, 2, "normal")),
        *((1, 0, "easy"), (2, 0, "easy"), (2, 1, "easy")),
    ],
)
def test_each_style_cell_counts_a_third_of_its_level_and_a_ninth_of_the_whole(
    chosen: int, rejected: int, level: str
) -> None:
    """One cell right, the other eight wrong: an aggregator that reads a style twice cannot pass all nine."""
    place = f"{rm_bench.STYLES[chosen]} over {rm_bench.STYLES[rejected]}"
    items = _all_domains()
    assert len(items) == 45
    lines = lines_of(result_of("rm_bench", items, lambda item: RIGHT if item.place == place else WRONG))
    assert {name: lines[name].two_orders.value for name in rm_bench.LEVELS} == pytest.approx(
        {name: 1 / 3 if name == level else 0.0 for name in rm_bench.LEVELS}
    )
    assert lines["overall (mean of four domains)"].two_orders.value == pytest.approx(1 / 9)
    assert lines[place].two_orders.value == 1.0


def test_the_pair_of_a_cell_is_the_pair_of_those_styles() -> None:
    for item in items_of("rm_bench", [_style_row("chat")]):
        chosen, _, rejected = item.place.partition(" over ")
        assert (item.pair.chosen, item.pair.rejected) == (f"good {chosen}", f"bad {rejected}")


def test_both_safety_files_are_one_domain_of_four() -> None:
    rows = [_style_row("safety-refuse", str(i)) for i in range(3)] + [_style_row("safety-response", "x")]
    items = items_of("rm_bench", [*rows, *(_style_row(d, d) for d in ("chat", "math", "code"))])
    lines = lines_of(
        result_of("rm_bench", items, lambda item: RIGHT if item.pair.prompt.messages[0].content == "x" else WRONG)
    )
    assert lines["safety"].two_orders.value == pytest.approx(1 / 4)
    assert lines["overall (mean of four domains)"].two_orders.value == pytest.approx(1 / 16)


def test_rm_bench_without_its_math_file_never_calls_three_domains_four() -> None:
    items = items_of("rm_bench", [_style_row("chat")], file="chat_filtered.json")
    items += items_of("rm_bench", [_style_row("code", "c")], file="code_filtered.json")
    lines = lines_of(result_of("rm_bench", items, lambda item: RIGHT if item.pair.subset == "chat" else WRONG))
    assert "overall (mean of four domains)" not in lines
    assert lines["overall (mean of four domains), without math, safety"].two_orders.value == 0.5
    assert lines["hard, without math, safety"].missing == ("math", "safety")


def test_rm_bench_takes_the_domain_from_the_files_name() -> None:
    row = {key: value for key, value in _style_row("chat").items() if key != "domain"}
    assert {i.pair.subset for i in items_of("rm_bench", [row], file="safety-refuse_filtered.json")} == {"safety"}
    with pytest.raises(DataError, match="belongs to none of chat, math, code, safety"):
        items_of("rm_bench", [row], file="poems_filtered.json")
    with pytest.raises(DataError, match="must hold three texts"):
        items_of("rm_bench", [{**_style_row("chat"), "chosen": ["a", "b"]}])


# --- JudgeBench ------------------------------------------------------------------------------------------------------


def _judge_row(number: int, source: str, label: str = "B>A") -> dict[str, Any]:
    texts = ("bad", "good") if label == "B>A" else ("good", "bad")
    row = {"pair_id": str(number), "source": source, "question": str(number), "label": label}
    return {**row, "response_A": texts[0], "response_B": texts[1]}


def test_judgebench_micro_and_macro_are_two_numbers() -> None:
    sources = ["mmlu-pro-law"] * 6 + ["livebench-reasoning"] * 2 + ["livebench-math"] + ["livecodebench"]
    items = items_of("judgebench", [_judge_row(i, s, "AB"[i % 2] + ">" + "BA"[i % 2]) for i, s in enumerate(sources)])
    assert {item.pair.chosen for item in items} == {"good"}
    result = result_of("judgebench", items, by_name({"0": WRONG, "1": WRONG, "2": WRONG, "6": WRONG}, RIGHT))
    lines = lines_of(result)
    assert lines["micro (all pairs)"].two_orders.value == pytest.approx(6 / 10)
    assert lines["macro (mean of four sections)"].two_orders.value == pytest.approx((0.5 + 0.5 + 1 + 1) / 4)
    assert result.official == "both_orders"


@pytest.mark.parametrize(
    ("right", "macro", "micro"),
    [((97, 63, 50, 29), 71.4, 68.3), ((96, 63, 45, 27), 67.8, 66.0), ((92, 58, 45, 27), 65.9, 63.4)],
    ids=["GRAM-Qwen3-14B", "GRAM-Qwen3-8B", "GRAM-Qwen3-4B"],
)
def test_published_judgebench_tables_are_macro_averages(
    right: tuple[int, int, int, int], macro: float, micro: float
) -> None:
    """Sections as the GRAM repository prints them (63.0 / 64.3 / 89.3 / 69.1 for 14B): "overall" is the macro one."""
    sizes = {"mmlu-pro-law": 154, "livebench-reasoning": 98, "livebench-math": 56, "livecodebench": 42}
    rows = [(source, i < hits) for (source, n), hits in zip(sizes.items(), right, strict=True) for i in range(n)]
    items = items_of("judgebench", [_judge_row(i, source) for i, (source, _) in enumerate(rows)])
    lines = lines_of(result_of("judgebench", items, lambda item: RIGHT if rows[int(item.pair.id)][1] else WRONG))
    assert round(100 * lines["macro (mean of four sections)"].two_orders.value, 1) == macro
    assert round(100 * lines["micro (all pairs)"].two_orders.value, 1) == micro


def test_judgebench_official_rule_gives_nothing_to_a_judge_that_contradicts_itself() -> None:
    items = items_of("judgebench", [_judge_row(i, "mmlu-pro-law") for i in range(4)])
    line = result_of("judgebench", items, by_name({"0": (0.9, 0.4), "1": (0.9, 0.4)}, RIGHT)).headline
    assert (line.two_orders.value, line.single_order.value, line.both_orders.value) == (1.0, 0.75, 0.5)


def test_judgebench_wants_a_label() -> None:
    with pytest.raises(DataError, match=r'field label: must be "A>B" or "B>A"'):
        items_of("judgebench", [{**_judge_row(1, "mmlu-pro-law"), "label": "A=B"}])
    with pytest.raises(DataError, match="field source"):
        items_of("judgebench", [_judge_row(1, "poetry")])


# --- RMB -------------------------------------------------------------------------------------------------------------

CHAT = "Helpfulness/Chat/Discussion"


def _rmb_pair(uid: str, path: str = f"Pairwise_set/{CHAT}") -> dict[str, Any]:
    row = {"pair_uid": uid, "conversation_input": [{**USER[0], "language": "en"}], "category_path": path}
    return {**row, "chosen": {"llm_name": "x", "answer": "good"}, "reject": {"llm_name": "y", "answer": "bad"}}


def _rmb_list(uid: str, losers: int, path: str = f"BoN_set/{CHAT}") -> dict[str, Any]:
    row = {"bon_uid": uid, "conversation_input": USER, "category_path": path, "bon_best": {"answer": "good"}}
    return {**row, "loser_list": [{"answer": f"bad {k}"} for k in range(losers)]}


def test_a_list_is_right_only_if_the_best_beats_every_loser() -> None:
    items = items_of("rmb", [_rmb_list("1", 4), _rmb_list("2", 2), _rmb_list("3", 3)])
    result = result_of("rmb", items, by_name({"bon/1/3": WRONG, "bon/3/0": FAILED}, RIGHT))
    line = _named(result, "best-of-n Chat")
    assert (line.units, line.two_orders.value) == (3, pytest.approx(1 / 3))
    assert line.valid_only is not None
    assert line.valid_only.value == 0.5
    assert result.health.pairs == 9


def test_a_lists_single_order_is_the_mean_of_its_orders_not_of_its_pairs() -> None:
    """In one order the best beats both losers, in the other one of two: right in one order, not in 3/4."""
    items = items_of("rmb", [_rmb_list("1", 2)])
    result = result_of("rmb", items, by_name({items[1].pair.id: (0.9, 0.1)}, RIGHT))
    assert _named(result, "best-of-n Chat").single_order.value == 0.5
    assert _named(result, "best-of-n Chat").both_orders.value == 0.0


def test_rmb_is_the_mean_of_four_sections() -> None:
    rows = [_rmb_pair(str(i), cell) for i, cell in enumerate(rmb._cells("pairwise", "Helpfulness"))]
    rows += [_rmb_pair(f"h{i}", cell) for i, cell in enumerate(rmb._cells("pairwise", "Harmlessness"))]
    rows += [_rmb_list(str(i), 2, cell) for i, cell in enumerate(rmb._cells("best-of-n", "Helpfulness"))]
    rows += [_rmb_list(f"h{i}", 2, cell) for i, cell in enumerate(rmb._cells("best-of-n", "Harmlessness"))]
    assert len(rows) == 2 * 49
    lines = lines_of(result_of("rmb", items_of("rmb", rows), lambda i: RIGHT if "Harmlessness" in i.cell else WRONG))
    assert lines["overall (mean of four)"].two_orders.value == pytest.approx(0.5)
    assert lines["pairwise harmlessness"].two_orders.value == 1.0


def test_a_title_names_few_missing_parts_and_counts_many() -> None:
    cells = [cell for cell in rmb._cells("pairwise", "Harmlessness") if not cell.endswith(("S10", "S11"))]
    lines = lines_of(result_of("rmb", items_of("rmb", [_rmb_pair(c, c) for c in cells]), lambda item: RIGHT))
    assert "pairwise harmlessness, without S10, S11" in lines
    few = result_of("rmb", items_of("rmb", [_rmb_pair("1", cells[0])]), lambda item: RIGHT)
    assert "pairwise harmlessness, without 11 parts" in lines_of(few)


def test_rmb_wants_its_own_scenarios_and_losers() -> None:
    with pytest.raises(DataError, match="field category_path"):
        items_of("rmb", [_rmb_pair("1", "Pairwise_set/Helpfulness/Poems/Sonnets")])
    with pytest.raises(DataError, match="field loser_list"):
        items_of("rmb", [{**_rmb_list("1", 1), "loser_list": []}])
    with pytest.raises(DataError, match=r"field chosen: must be an object with answer"):
        items_of("rmb", [{**_rmb_pair("1"), "chosen": {}}])


def _named(result: Result, beginning: str) -> ScoreLine:
    return next(line for line in result.scores if line.name.startswith(beginning))


# --- HHH, Unified-Feedback, pairs ------------------------------------------------------------------------------------


def test_hhh_reads_both_of_its_formats() -> None:
    items = items_of("hhh", [{"input": "?", "target_scores": {"bad": 0, "good": 1}}], file="honest/task.json")
    targets = {"choices": ["good", "bad"], "labels": [1, 0]}
    items += items_of("hhh", [{"input": "?", "targets": targets}], file="harmless.parquet")
    assert [(item.pair.subset, item.pair.chosen) for item in items] == [("honest", "good"), ("harmless", "good")]
    with pytest.raises(DataError, match="two choices, one of them right"):
        items_of("hhh", [{"input": "?", "targets": {"choices": ["a", "b"], "labels": [1, 1]}}], file="other.jsonl")
    with pytest.raises(DataError, match="field file"):
        items_of("hhh", [{"input": "?", "targets": targets}], file="kind.jsonl")


def test_hhh_prints_the_share_of_all_and_the_mean_of_categories() -> None:
    items = [
        item
        for category, count in (("harmless", 3), ("helpful", 1), ("honest", 1), ("other", 1))
        for item in items_of(
            "hhh",
            [{"input": f"{category}{i}", "target_scores": {"g": 1, "b": 0}} for i in range(count)],
            f"{category}.jsonl",
        )
    ]
    lines = lines_of(result_of("hhh", items, lambda item: RIGHT if item.pair.subset == "harmless" else WRONG))
    assert lines["overall (all comparisons)"].two_orders.value == 0.5
    assert lines["macro (mean of four categories)"].two_orders.value == 0.25


def _feedback_row(a: float, b: float, number: int = 0) -> dict[str, Any]:
    convs = {f"conv_{side}": [*USER, {"role": "assistant", "content": f"{side}{number}"}] for side in "AB"}
    return {**convs, "conv_A_rating": a, "conv_B_rating": b, "num_turns": 1, "source": "flan"}


def test_unified_feedback_takes_the_first_thousand_without_ties() -> None:
    rows = [_feedback_row(i % 3, 1, i) for i in range(2000)]  # A worse, equal, A better, in turn
    items = items_of("unified_feedback", rows)
    assert len(items) == 1000
    assert [items[0].pair.chosen, items[1].pair.chosen, items[2].pair.chosen] == ["B0", "A2", "B3"]


def test_unified_feedback_wants_one_prompt() -> None:
    row = {
        **_feedback_row(1, 2),
        "conv_B": [{"role": "user", "content": "another"}, {"role": "assistant", "content": "x"}],
    }
    with pytest.raises(DataError, match="field conv_B"):
        items_of("unified_feedback", [row])


def _pair_row() -> dict[str, Any]:
    return {"prompt": "?", "response_a": "bad", "response_b": "good", "label": "b"}


def test_pairs_are_scored_by_subset() -> None:
    rows = [{**_pair_row(), "id": str(i), "subset": "x" if i < 3 else "y"} for i in range(4)]
    lines = lines_of(result_of("pairs", items_of("pairs", rows), by_name({"0": WRONG, "1": WRONG, "2": WRONG}, RIGHT)))
    assert lines["overall (all pairs)"].two_orders.value == 0.25
    assert lines["macro (mean of subsets)"].two_orders.value == 0.5


def test_pairs_want_labels_and_names() -> None:
    with pytest.raises(DataError, match="field label: missing"):
        items_of("pairs", [{**_pair_row(), "label": None}])
    with pytest.raises(DataError, match="occurs twice"):
        check_names(items_of("pairs", [{**_pair_row(), "id": "x"}] * 2), "pairs")
    with pytest.raises(DataError, match="no items"):
        check_names([], "pairs")


# --- all -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(BENCHMARKS))
def test_a_missing_column_is_named(name: str) -> None:
    with pytest.raises(DataError, match=r"rows\.jsonl, row 1, field \w+"):
        items_of(name, [{"nothing": "here"}])


def test_a_trial_keeps_prompts_whole_and_meets_every_subset() -> None:
    items = _all_domains() + items_of("rm_bench", [_style_row("chat", str(i)) for i in range(30)], file="more.json")
    some = limited(items, 36, seed=0)
    assert len(some) == 36
    assert {item.pair.subset for item in some} == {"chat", "math", "code", "safety"}
    assert some == limited(items, 36, seed=0)
    assert len(limited(items, 10_000, seed=0)) == len(items)


@pytest.mark.slow
def test_the_hub_gives_the_items_that_files_give(tmp_path: Path) -> None:
    """The datasets library on a folder, which it reads as it reads a repository."""
    (tmp_path / "train.jsonl").write_text(json.dumps(_style_row("chat")) + "\n", encoding="utf-8")
    part = HubPart(str(tmp_path), "train", "total_dataset.json")
    loaded = read_hub(replace(BENCHMARKS["rm_bench"], hub=(part,)))
    (record,) = loaded.files
    assert (record.rows, record.known) == (1, None)
    assert rm_bench.items(loaded.rows, 0) == items_of("rm_bench", [_style_row("chat")], file="total_dataset.json")


def test_pairs_without_a_group_are_told_apart_by_their_prompts() -> None:
    pairs = [Pair(str(i), Prompt.from_text(str(i // 2)), "x", "y", "a") for i in range(20)]
    some = limited([Item(pair) for pair in pairs], 4, seed=0)
    assert len(some) == 4
    assert len({item.pair.prompt for item in some}) == 2


@pytest.mark.slow
def test_hhh_is_read_from_the_folders_of_its_parquet_copy(tmp_path: Path) -> None:
    """Laid out as the hub converts it: CATEGORY/test/0000.parquet, no configurations declared."""
    for name in hhh.CATEGORIES:
        (tmp_path / name / "test").mkdir(parents=True)
        targets = {"choices": ["bad", "good"], "labels": [0, 1]}
        table = pyarrow.Table.from_pylist([{"input": name, "targets": targets}])
        pyarrow.parquet.write_table(table, tmp_path / name / "test" / "0000.parquet")
    parts = tuple(replace(part, repo=str(tmp_path), revision=None) for part in BENCHMARKS["hhh"].hub)
    items = hhh.items(read_hub(replace(BENCHMARKS["hhh"], hub=parts)).rows, 0)
    assert [(item.pair.subset, item.pair.chosen) for item in items] == [(name, "good") for name in hhh.CATEGORIES]

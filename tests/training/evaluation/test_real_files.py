"""The published files, if they are here: their counts, and scores to the last digit against a second computation.

The judge is a fixed rule ("longer wins", and a hash with flips and ties), so every score can be computed again from the
files in plain loops, without anything of the evaluation's own.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.support.evaluation import Opinion, lines_of, result_of
from training.data.pairs import DataError
from training.evaluation.benchmarks import BENCHMARKS
from training.evaluation.benchmarks.files import Loaded, read_folder
from training.evaluation.items import Item, check_names
from training.evaluation.results import ScoreLine
from training.evaluation.run import load_items

FOLDER = os.environ.get("GRAM_DATA_DIR")
pytestmark = pytest.mark.skipif(not FOLDER, reason="GRAM_DATA_DIR names no folder with the published files")
DATA = Path(FOLDER or ".")
Rule = Callable[[str, str, str], tuple[bool, bool]]
"""(prompt, chosen, rejected) -> right with chosen shown first, right with it shown second."""


def longer(prompt: str, chosen: str, rejected: str) -> tuple[bool, bool]:
    return len(chosen) > len(rejected), len(chosen) > len(rejected)


def erratic(prompt: str, chosen: str, rejected: str) -> tuple[bool, bool]:
    """Right about two times in three in each order, independently; depends on nothing but the texts."""
    digest = hashlib.md5(f"{prompt}|{chosen}|{rejected}".encode()).digest()
    return digest[0] % 3 > 0, digest[1] % 3 > 0


def opinion_of(rule: Rule) -> Callable[[Item], Opinion]:
    """A rule as a judge that is surer (0.9) with the right response first than second (0.8)."""

    def opinion(item: Item) -> Opinion:
        prompt = item.pair.prompt.messages[-1].content
        first, second = rule(prompt, item.pair.chosen, item.pair.rejected)
        return (0.9 if first else 0.1), (0.8 if second else 0.2)

    return opinion


def averaged(rights: tuple[bool, bool]) -> bool:
    """What averaging 0.9 / 0.1 with 0.8 / 0.2 decides: the order that is surer."""
    return rights[0]


def evaluated(name: str, rule: Rule) -> dict[str, ScoreLine]:
    return lines_of(result_of(name, read(name)[1], opinion_of(rule)))


@cache
def read(name: str) -> tuple[Loaded, list[Item]]:
    return load_items(BENCHMARKS[name], Namespace(hub=False, data=None, allow_changed=False, seed=0, limit=None))


def mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)


# --- counts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "rows", "items", "prompts"),
    [
        ("rewardbench", 2_985, 2_985, 2_733),
        ("rm_bench", 798, 7_182, 796),
        ("judgebench", 350, 350, 350),
        ("judgebench_claude", 270, 270, 269),
        ("rmb", 14_543 + 3_786, None, 3_003),
    ],
)
def test_counts(name: str, rows: int, items: int | None, prompts: int) -> None:
    loaded, found = read(name)
    check_names(found, name)
    assert len(loaded.rows) == rows
    assert items is None or len(found) == items
    assert len({item.pair.group for item in found}) == prompts
    assert all(record.known for record in loaded.files)


@pytest.mark.parametrize(
    ("name", "score", "expected"),
    [
        ("rewardbench", "micro (every pair alike)", 0.4355),
        ("judgebench", "micro (all pairs)", 0.46),
        ("judgebench_claude", "micro (all pairs)", 0.4407),
    ],
)
def test_what_length_alone_gives_away(name: str, score: str, expected: float) -> None:
    assert evaluated(name, longer)[score].length.value == pytest.approx(expected, abs=5e-5)


def test_rmb_has_its_lists_and_its_pairs() -> None:
    _, items = read("rmb")
    assert sum(not item.unit for item in items) == 14_543
    assert len({item.unit for item in items if item.unit}) == 3_786
    assert len({item.pair.group for item in items if not item.unit}) == 2_649


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    content = (DATA / "judgebench" / "gpt.jsonl").read_bytes()
    (tmp_path / "gpt.jsonl").write_bytes(content.replace(b'"A>B"', b'"B>A"', 1))
    with pytest.raises(DataError, match="not the published file"):
        read_folder(BENCHMARKS["judgebench"], tmp_path)
    (record,) = read_folder(BENCHMARKS["judgebench"], tmp_path, allow_changed=True).files
    assert record.known is False


# --- scores ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [longer, erratic])
def test_rewardbench(rule: Rule) -> None:
    import pyarrow.parquet

    right: dict[str, list[bool]] = defaultdict(list)
    single: dict[str, list[float]] = defaultdict(list)
    section_of: dict[str, str] = {}
    for row in pyarrow.parquet.read_table(DATA / "rewardbench" / "rewardbench_filtered.parquet").to_pylist():
        rights = rule(row["question"], row["response_A"], row["response_B"])
        right[row["subset"]].append(averaged(rights))
        single[row["subset"]].append(mean(rights))
        section_of[row["subset"]] = row["domain"]
    weights = {subset: len(values) for subset, values in right.items()}
    weights |= {"math-prm": 984, "xstest-should-refuse": 250, "xstest-should-respond": 154}  # as published
    sections = {}
    for section in ("Chat", "Chat Hard", "Safety", "Reasoning"):
        mine = [subset for subset in right if section_of[subset] == section]
        sections[section] = sum(weights[s] * mean(right[s]) for s in mine) / sum(weights[s] for s in mine)
    lines = evaluated("rewardbench", rule)
    for section, expected in sections.items():
        assert lines[section].two_orders.value == pytest.approx(expected, abs=1e-14)
    assert lines["overall (mean of four sections)"].two_orders.value == pytest.approx(
        mean(sections.values()), abs=1e-14
    )
    everything = [value for values in right.values() for value in values]
    assert lines["micro (every pair alike)"].two_orders.value == pytest.approx(mean(everything), abs=1e-14)
    for subset, values in single.items():
        assert lines[subset].single_order.value == pytest.approx(mean(values), abs=1e-14)


@pytest.mark.parametrize("rule", [longer, erratic])
def test_rm_bench(rule: Rule) -> None:
    """The published aggregator's matrix, on the domains whose files are here."""
    domains: dict[str, list[list[list[bool]]]] = defaultdict(list)
    for path in sorted((DATA / "rm_bench").glob("*_filtered.json")):
        for row in json.loads(path.read_text(encoding="utf-8")):
            matrix = [[averaged(rule(row["prompt"], c, r)) for r in row["rejected"]] for c in row["chosen"]]
            domains[path.name.split("_")[0].split("-")[0]].append(matrix)
    levels: dict[str, dict[str, float]] = {}
    for domain, matrices in domains.items():
        cells = [[mean(m[i][j] for m in matrices) for j in range(3)] for i in range(3)]
        levels[domain] = {
            "hard": (cells[0][1] + cells[0][2] + cells[1][2]) / 3,
            "normal": (cells[0][0] + cells[1][1] + cells[2][2]) / 3,
            "easy": (cells[1][0] + cells[2][0] + cells[2][1]) / 3,
        }
    lines = evaluated("rm_bench", rule)
    assert sorted(domains) == ["chat", "code", "safety"]
    for domain, expected in levels.items():
        assert lines[domain].two_orders.value == pytest.approx(mean(expected.values()), abs=1e-14)
    for level in ("hard", "normal", "easy"):
        expected_level = mean(values[level] for values in levels.values())
        assert lines[f"{level}, without math"].two_orders.value == pytest.approx(expected_level, abs=1e-14)
    overall = mean(mean(values.values()) for values in levels.values())
    assert lines["overall (mean of four domains), without math"].two_orders.value == pytest.approx(overall, abs=1e-14)


@pytest.mark.parametrize("rule", [longer, erratic])
@pytest.mark.parametrize("split", ["gpt", "claude"])
def test_judgebench(rule: Rule, split: str) -> None:
    """The published rule counts verdicts, +1 and -1 (``compute_final_metrics``)."""
    official: dict[str, list[bool]] = defaultdict(list)
    gram: dict[str, list[bool]] = defaultdict(list)
    for line in (DATA / "judgebench" / f"{split}.jsonl").read_text(encoding="utf-8").split("\n"):
        if line:
            row = json.loads(line)
            texts = (row["response_A"], row["response_B"])
            chosen, rejected = texts if row["label"] == "A>B" else texts[::-1]
            rights = rule(row["question"], chosen, rejected)
            sections = {"mmlu": "knowledge", "livebench-reasoning": "reasoning", "livebench-math": "math"}
            name = sections.get(row["source"].split("-pro")[0], "coding")
            official[name].append(sum(1 if right else -1 for right in rights) > 0)
            gram[name].append(averaged(rights))
    lines = evaluated("judgebench" if split == "gpt" else "judgebench_claude", rule)
    for counts, column in ((official, "both_orders"), (gram, "two_orders")):
        found = {name: getattr(line, column).value for name, line in lines.items()}
        assert found["micro (all pairs)"] == pytest.approx(mean(v for c in counts.values() for v in c), abs=1e-14)
        assert found["macro (mean of four sections)"] == pytest.approx(mean(map(mean, counts.values())), abs=1e-14)
        for section, values in counts.items():
            assert found[section] == pytest.approx(mean(values), abs=1e-14)


def _rmb_rows() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted((DATA / "rmb").rglob("*.json.gz")):
        kind, goal = path.relative_to(DATA / "rmb").parts[:2]
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for row in json.load(file):
                yield f"{'pairwise' if kind == 'Pairwise_set' else 'best-of-n'} {goal.lower()}", row


@pytest.mark.parametrize("rule", [longer, erratic])
def test_rmb(rule: Rule) -> None:
    right: dict[str, list[bool]] = defaultdict(list)
    for section, row in _rmb_rows():
        prompt = row["conversation_input"][-1]["content"]
        if "chosen" in row:
            right[section].append(averaged(rule(prompt, row["chosen"]["answer"], row["reject"]["answer"])))
        else:
            best = row["bon_best"]["answer"]
            right[section].append(all(averaged(rule(prompt, best, loser["answer"])) for loser in row["loser_list"]))
    found = {line.name: line for line in evaluated("rmb", rule).values()}
    assert len(right) == 4
    for section, values in right.items():
        assert found[section].two_orders.value == pytest.approx(mean(values), abs=1e-14)
        assert found[section].units == len(values)
    assert found["overall (mean of four)"].two_orders.value == pytest.approx(mean(map(mean, right.values())), abs=1e-14)
    assert found["overall (mean of four)"].missing  # three of the pairwise files are not in this copy

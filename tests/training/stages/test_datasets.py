"""Which rows a run sees, in which order: decided by seed and epoch alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.types import Prompt
from tests.support.tiny_training import pairs
from training.configs import DataSection
from training.data.judgments import WrittenJudgment, read_judgments, write_judgments
from training.data.pairs import DataError, Pair, write_pairs
from training.stages.datasets import Interleaved, PairDataset, training_pairs
from training.stages.examples import Example


def _build(pair: Pair, swapped: bool) -> Example:
    return Example((int(pair.id[1:]), int(swapped)))


def _rows(dataset: PairDataset | Interleaved) -> list[tuple[int, ...]]:
    return [dataset[i].ids for i in range(len(dataset))]


def test_both_orders_are_neighbours() -> None:
    assert _rows(PairDataset(pairs(2), _build, "both")) == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_random_orders_are_fair_and_new_each_epoch() -> None:
    dataset = PairDataset(pairs(400), _build, "random", seed=3)
    first = _rows(dataset)
    assert first == _rows(PairDataset(pairs(400), _build, "random", seed=3))
    assert 160 < sum(swapped for _, swapped in first) < 240
    dataset.set_epoch(1)
    assert 120 < sum(a != b for a, b in zip(first, _rows(dataset), strict=True)) < 280


def test_interleaving_keeps_both_orders_and_the_ratio() -> None:
    one, two = (
        PairDataset(pairs(30), _build),
        PairDataset(pairs(10), lambda pair, _: Example((1000 + int(pair.id[1:]),))),
    )
    rows = [row[0] for row in _rows(Interleaved(one, two))]
    assert [r for r in rows if r < 1000] == list(range(30))
    assert [r for r in rows if r >= 1000] == list(range(1000, 1010))
    assert all(sum(r >= 1000 for r in rows[i : i + 8]) in (1, 2, 3) for i in range(0, 40, 8))


def test_a_limit_draws_nested_sets(tmp_path: Path) -> None:
    """The curve of an adaptation compares 1,000 pairs with 3,000 that hold them."""
    write_pairs(tmp_path / "p.jsonl", pairs(100))

    def drawn(limit: int | None, seed: int) -> list[str]:
        data = DataSection(train=(str(tmp_path / "p.jsonl"),), limit=limit)
        return [pair.id for pair in training_pairs(data, seed, labelled=True)]

    assert drawn(10, 1) == drawn(30, 1)[:10] != drawn(10, 2)
    assert drawn(0, 1) == []
    assert drawn(None, 1) == drawn(100, 1) == drawn(500, 1) == [f"p{i}" for i in range(100)]


def test_judgments_survive_their_file(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    rows = [WrittenJudgment(pair, "ba", f"<think>\u2028{pair.id}</think>\n<answer>A</answer>") for pair in pairs(3)]
    assert write_judgments(path, rows) == 3
    assert list(read_judgments(path)) == rows


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("", "is empty"),
        ("{}\n", "row 1: must be a JSON object with the fields order, pair, text"),
        ("[\n", "row 1: not JSON"),
        ('{"pair": {}, "order": "ab", "text": "x"}\n', "row 1, field pair, field prompt"),
        ('{"pair": 3, "order": "ab", "text": "x"}\n', "row 1, field pair"),
        ('{"pair": {}, "order": "aa", "text": "x"}\n', "row 1, field order"),
        ('{"pair": {}, "order": "ab", "text": " "}\n', "row 1, field text"),
    ],
)
def test_wrong_judgments_are_named(tmp_path: Path, line: str, complaint: str) -> None:
    path = tmp_path / "j.jsonl"
    path.write_text(line, "utf-8")
    with pytest.raises(DataError, match=r"j\.jsonl") as caught:
        list(read_judgments(path))
    assert complaint in str(caught.value)


def test_an_unlabelled_pair_has_no_judgment(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    write_judgments(path, [WrittenJudgment(Pair("p", Prompt.from_text("q"), "a", "b"), "ab", "text")])
    with pytest.raises(DataError, match=r"pair\.label: missing"):
        list(read_judgments(path))

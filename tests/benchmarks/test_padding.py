"""The padding benchmark: what it prints is what the stages' own layout leaves."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest

from benchmarks import padding
from service.types import Prompt
from training.data.pairs import Pair, write_pairs


def test_rows_by_length_pad_less_than_rows_at_random(tmp_path: Path) -> None:
    rows = [Pair(f"p{i}", Prompt.from_text("q"), "x" * (i * 389 % 4001), "y", "a") for i in range(512)]
    write_pairs(tmp_path / "pairs.jsonl", rows)
    report = padding.run(Namespace(pairs=str(tmp_path / "pairs.jsonl")))
    assert report.holds
    assert [bar.what for bar in report.bars] == ["padding, pretrain", "padding, finetune"]
    for row in report.rows:
        drawn, by_length = (float(cell.removesuffix("%")) for cell in row[3:5])
        assert by_length < 5 < 15 < drawn


def test_pairs_must_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRAM_DATA_DIR", raising=False)
    with pytest.raises(SystemExit, match="--pairs"):
        padding.run(Namespace(pairs=None))

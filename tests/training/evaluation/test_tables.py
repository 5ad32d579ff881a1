"""What people read: nothing incomplete, changed or tried out passes for the real thing, and pictures hold any label."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.evaluation import FAILED, RIGHT, items_of, result_of
from training.evaluation.benchmarks.files import FileRecord
from training.evaluation.results import Result
from training.evaluation.tables import markdown, picture, summary


def _result(**changes: object) -> Result:
    row = {"pair_id": "1", "source": "mmlu-pro-law", "question": "?", "label": "A>B"}
    rows = [{**row, "pair_id": str(i), "response_A": "good" * i, "response_B": "bad"} for i in range(1, 4)]
    found = result_of("judgebench", items_of("judgebench", rows), lambda i: FAILED if i.pair.id == "1" else RIGHT)
    return replace(found, **changes)  # type: ignore[arg-type]  # a test's own choice


def test_the_table_says_how_the_harness_counts_and_what_failed() -> None:
    page = markdown(_result())
    assert "own harness counts as **both orders right**" in page
    assert "| **knowledge** | 3 | 1 | 66.7 [" in page
    assert "invalid 33.3 [" in page
    assert "(invalid_verdict 1)" in page
    assert "**macro (mean of four sections): without reasoning, math, coding.**" in page


@pytest.mark.parametrize(("known", "word"), [(True, "as published"), (False, "CHANGED"), (None, "unknown")])
def test_the_table_says_whether_its_files_are_the_published_ones(known: bool | None, word: str) -> None:
    result = _result(files=(FileRecord("gpt.jsonl", "ab" * 32, 3, known),))
    assert f"| `gpt.jsonl` | 3 | `abababababababab` | {word} |" in markdown(result)
    assert f"files: 1 {word}" in markdown(result, details=False)
    assert ("not comparable with published scores" in markdown(result)) == (known is False)


def test_a_trial_is_never_called_the_benchmark() -> None:
    result = _result(limit=100)
    assert "A trial on about 100 pairs, not the whole." in markdown(result)
    assert "JudgeBench (GPT-4o pairs) (trial)" in summary([result])


def test_a_summary_has_one_row_a_benchmark() -> None:
    lines = summary([_result(), _result()]).splitlines()
    assert len(lines) == 4
    assert lines[2].startswith("| JudgeBench (GPT-4o pairs) | micro (all pairs), without reasoning, math, coding | 3 |")


def test_a_picture_holds_names_of_any_length(tmp_path: Path) -> None:
    """Layout warnings are errors here: a label wider than the picture once left no room for the axes."""
    long = _result(judge="a-judge-with-a-rather-long-name" * 2)
    lines = tuple(replace(line, name=f"{line.name} {'and more ' * 20}") for line in long.scores)
    picture(replace(long, scores=lines), tmp_path / "one.png")
    assert (tmp_path / "one.png").stat().st_size > 5_000

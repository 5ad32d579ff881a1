"""Pure parts of the measurements: bars, ratios, gaps, the documentation page."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from benchmarks.figures import Bar, Report, largest_gap, median_ratio


@pytest.mark.parametrize(
    ("measured", "sense", "bound", "holds"),
    [(0.9, ">=", 0.9, True), (0.8999, ">=", 0.9, False), (0.0, "<=", 0.0, True), (1e-9, "<=", 0.0, False)],
)
def test_bar_holds_up_to_its_bound(measured: float, sense: str, bound: float, holds: bool) -> None:
    assert Bar("x", measured, sense, bound).holds is holds  # type: ignore[arg-type]


@pytest.mark.parametrize("sense", [">=", "<="])
def test_nothing_measured_is_missed(sense: str) -> None:
    assert not Bar("x", math.nan, sense, 1.0).holds  # type: ignore[arg-type]


def test_ratio_is_taken_round_by_round() -> None:
    """A round at half speed halves both sides; the ratio of the medians would be 1.5."""
    assert median_ratio([10.0, 30.0, 20.0], [10.0, 15.0, 20.0]) == 1.0


def test_gap_is_infinite_where_one_side_has_no_number() -> None:
    assert largest_gap([0.5, None, 0.25], [0.5, None, 0.75]) == 0.5
    assert largest_gap([0.5, None], [0.5, 0.5]) == math.inf


def report(measured: float) -> Report:
    return Report(
        "demo", "What it is.", ["way", "rate"], [["one", "2"]], [Bar("x", measured, ">=", 1.0)], {"rates": [2]}
    )


def test_page_keeps_earlier_measurements(tmp_path: Path) -> None:
    page = tmp_path / "docs" / "page.md"
    report(2.0).append_to(page)
    report(0.5).append_to(page)
    text = page.read_text()
    assert text.startswith("# ")
    assert text.count("## demo, ") == 2
    assert text.index(": holds") < text.index(": MISSED")
    assert "| way | rate |\n| --- | --- |\n| one | 2 |" in text


def test_json_line_holds_bars_and_raw_figures() -> None:
    line = json.loads(report(0.5).json_line())
    assert line["bars"] == [{"what": "x", "measured": 0.5, "sense": ">=", "bound": 1.0, "holds": False}]
    assert line["raw"] == {"rates": [2]}
    assert line["machine"]["cores"] >= 1

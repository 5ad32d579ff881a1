"""The attacks' command: its parts are the soak's, and its statistic sees a comparison that stops early."""

from __future__ import annotations

import random
from argparse import ArgumentParser
from pathlib import Path

import pytest

from benchmarks import defects, hostile, soak


def test_its_parts_are_the_soak_s() -> None:
    parser = ArgumentParser()
    hostile.add_arguments(parser)
    assert parser.parse_args(["--part", "bodies"]).part == ["bodies"]
    assert parser.parse_args([]).parts == hostile.PARTS
    assert set(hostile.PARTS) < set(soak.PARTS)
    assert sum(soak.PARTS[part].examples >= 20_000 for part in hostile.PARTS if part.startswith("schema")) == 3
    with pytest.raises(SystemExit):
        parser.parse_args(["--part", "Q7"])


def test_ranks_are_shared_by_equals() -> None:
    assert hostile._ranks([3.0, 1.0, 3.0, 2.0]) == [2.5, 0.0, 2.5, 1.0]


def test_a_comparison_that_stops_early_has_a_trend(monkeypatch: pytest.MonkeyPatch) -> None:
    def early(gate: object, header: str) -> float:
        right = len(header.removeprefix("Bearer ").rstrip("~"))
        return 1e-6 + 1e-9 * right + random.gauss(0, 2e-9)

    monkeypatch.setattr(hostile, "_refusal_s", early)
    assert hostile.key_timing_trend(2000) > hostile.TREND
    monkeypatch.setattr(hostile, "_refusal_s", lambda gate, header: random.random())
    assert abs(hostile.key_timing_trend(20_000)) <= hostile.TREND


JUNIT = """<testsuites><testsuite>
<testcase name="one"><properties>
<property name="defect" value="{0}"/><property name="caught_by" value="q1"/>
</properties></testcase>
<testcase name="two"><properties>
<property name="defect" value="{0}"/><property name="caught_by" value="q2"/>
</properties>{1}</testcase>
<testcase name="other"/>
</testsuite></testsuites>"""


@pytest.mark.parametrize(("inside", "killed"), [("", 1), ("<failure/>", 0), ("<error/>", 0), ("<skipped/>", 0)])
def test_a_defect_is_killed_when_every_named_check_saw_it(tmp_path: Path, inside: str, killed: int) -> None:
    (tmp_path / "junit.xml").write_text(JUNIT.format(defects.PROMISED[0], inside))
    found = defects.read(tmp_path / "junit.xml")
    assert {name: one.checks for name, one in found.items()} == {defects.PROMISED[0]: ["q1", "q2"]}
    report = defects.report_of(found)
    assert report.bars[0].measured == killed
    assert not report.holds, "fourteen others were never planted"


def test_all_that_are_promised_are_fifteen() -> None:
    assert len(set(defects.PROMISED)) == 15
    assert defects.report_of({name: defects.Planted(["x"], 1) for name in defects.PROMISED}).holds

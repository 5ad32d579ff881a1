"""The soak's bookkeeping: every part has tests, what failed or never ran is a failure, what passed is not run again."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import soak
from benchmarks.__main__ import parse
from benchmarks.figures import Bar, Report
from benchmarks.soak import PARTS, Result

GOOD = Result("Q7", 12, 0, 42, 3.5, 1, 50.0, "abc")
JUNIT = """<testsuites><testsuite>
<testcase name="one"><properties><property name="examples" value="40"/></properties></testcase>
<testcase name="two"><properties><property name="examples" value="2"/></properties>{}</testcase>
</testsuite></testsuites>"""


@pytest.mark.slow
def test_every_part_names_tests(root: Path) -> None:
    assert all(bool(part.paths) != bool(part.measurement) for part in PARTS.values())
    paths = sorted({path for part in PARTS.values() for path in part.paths})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *paths]
    listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.splitlines()
    for name, part in PARTS.items():
        if part.measurement:
            parse([*part.measurement, "--share", "1", "--seed", "1"])  # exits where it knows no such option
            continue
        found = [line for line in listed if line.startswith(part.paths) and part.word in line]
        assert found, name
        if part.paths == soak.QUEUES:
            assert all(any(store in line for line in found) for store in ("memory", "sqlite", "redis")), name


@pytest.mark.parametrize(("inside", "failures"), [("", 0), ("<failure/>", 1), ("<error/>", 1), ("<skipped/>", 1)])
def test_a_report_is_read(tmp_path: Path, inside: str, failures: int) -> None:
    (tmp_path / "junit.xml").write_text(JUNIT.format(inside))
    result = soak._result("Q7", tmp_path / "junit.xml", 3.5, 1, 50.0, "abc")
    assert (result.tests, result.failures, result.examples) == (2, failures, 42)
    assert result.enough


def line(*held: bool, examples: int = 7) -> str:
    """The last line of a measurement."""
    bars = [Bar("x", 1.0, ">=" if good else "<=", 0.5) for good in held]
    return Report("load", "", (), (), bars, {"examples": examples}).json_line()


def test_a_measurement_is_read() -> None:
    good = soak._figures("load", line(True, True), 3.5, 1, 50.0, "abc")
    assert (good.tests, good.failures, good.examples) == (2, 0, 7)
    assert soak._figures("load", line(True, False, False), 3.5, 1, 50.0, "abc").failures == 2


@pytest.mark.parametrize("last", ["", "Traceback (most recent call last):", "{}", line(), '{"bars": [], "raw": []}'])
def test_a_measurement_without_figures_has_failed(last: str) -> None:
    assert soak._figures("load", last, 3.5, 1, 50.0, "abc").failures == 1


def test_no_report_and_no_tests_are_failures(tmp_path: Path) -> None:
    assert soak._result("Q7", tmp_path / "none.xml", 1.0, 1, 50.0, "abc").failures == 1
    (tmp_path / "junit.xml").write_text("<testsuites/>")
    assert soak._result("Q7", tmp_path / "junit.xml", 1.0, 1, 50.0, "abc").failures == 1


def test_only_what_passed_at_this_commit_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "STATE", tmp_path / "state.json")
    assert soak._done("abc", 50.0) == {}
    soak._keep(GOOD)
    soak._keep(replace(GOOD, part="Q8", failures=1))
    soak._keep(replace(GOOD, part="Q9", commit="abd"))
    soak._keep(replace(GOOD, part="Q1", scale=1.0))
    assert soak._done("abc", 50.0) == {"Q7": GOOD}
    assert soak._done("abc with changes", 50.0) == {}


def test_too_few_examples_and_failures_miss_the_bars() -> None:
    assert soak._report([GOOD]).holds
    assert not soak._report([GOOD, replace(GOOD, examples=1)]).holds
    assert not soak._report([replace(GOOD, failures=1)]).holds

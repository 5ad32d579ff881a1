"""Planted defects: each known mistake is put into a store or the service, and the check that must fail does fail."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.figures import Bar, Report
from benchmarks.machine import ROOT

SUMMARY = "A defect is killed when every check that is named for it fails on it, on every store."
PROMISED = (
    "read-modify-write",
    "no deduplication",
    "running sums",
    "no isfinite",
    "evaluations update",
    "one queue for all",
    "window before the commit",
    "divisor N - 1",
    "split_special_tokens only",
    "parse-first verdict",
    "swap skipped",
    "health always true",
    "finish_reason ignored",
    "no abort on disconnect",
    "0.0 on failure",
)
"""The mistakes that such services are known for; the others planted here are one for each family of probes."""
PATHS = (
    "tests/contract/test_defects.py",
    "tests/service/test_hostile.py",
    "tests/service/test_access.py",
    "tests/service/test_raw_bodies.py",
    "tests/service/test_memory.py",
)
WORDS = "defect or broken_defence or leak"
LIMIT_S = 1800


@dataclass(slots=True)
class Planted:
    """What became of one defect: the checks that were to see it, and how many of their runs did not."""

    checks: list[str] = field(default_factory=list)
    runs: int = 0
    survived: int = 0

    @property
    def killed(self) -> bool:
        return self.runs > 0 and self.survived == 0


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--workers", type=int, default=2, help="test processes (default 2)")


def run(arguments: Namespace) -> Report:
    with tempfile.TemporaryDirectory() as folder:
        junit = Path(folder) / "junit.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-n", str(arguments.workers), f"--junitxml={junit}"]
        subprocess.run([*command, "-k", WORDS, *PATHS], cwd=ROOT, check=False, timeout=LIMIT_S)
        found = read(junit)
    return report_of(found)


def read(junit: Path) -> dict[str, Planted]:
    """Defects by name, from the properties that tests note. Raises `FileNotFoundError` where pytest wrote nothing."""
    found: dict[str, Planted] = {}
    for case in ET.parse(junit).getroot().iter("testcase"):
        noted = {p.get("name"): p.get("value", "") for p in case.iter("property")}
        if not noted.get("defect"):
            continue
        planted = found.setdefault(noted["defect"], Planted())
        planted.runs += 1
        planted.survived += any(child.tag in ("failure", "error", "skipped") for child in case)
        if (check := noted.get("caught_by", "")) not in planted.checks:
            planted.checks.append(check)
    return found


def report_of(found: Mapping[str, Planted]) -> Report:
    """The promised ones first, whether or not they were found."""
    names = [*PROMISED, *(name for name in found if name not in PROMISED)]
    planted = {name: found.get(name, Planted()) for name in names}
    rows = [
        [
            "promised" if name in PROMISED else "",
            name,
            ", ".join(one.checks),
            str(one.runs),
            "yes" if one.killed else "NO",
        ]
        for name, one in planted.items()
    ]
    killed = sum(planted[name].killed for name in PROMISED)
    bars = [
        Bar("promised defects that were killed", float(killed), ">=", len(PROMISED)),
        Bar("planted defects that survived", float(sum(not one.killed for one in planted.values())), "<=", 0),
    ]
    raw = {name: {"caught_by": one.checks, "runs": one.runs, "survived": one.survived} for name, one in planted.items()}
    return Report("defects", SUMMARY, ("", "planted", "caught by", "runs", "killed"), rows, bars, raw)

"""The floor of requirements/floor.txt: nothing that is pinned, allowed or installed lies below it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
FLOOR = ROOT / "requirements/floor.txt"
FILES = [path for path in (*ROOT.glob("requirements/*.txt"), *ROOT.glob("tests/**/requirements.txt")) if path != FLOOR]


def requirements(text: str) -> Iterator[Requirement]:
    for line in text.splitlines():
        if name := line.partition("#")[0].strip():
            yield Requirement(name)


def bound(requirement: Requirement) -> Version | None:
    """The lowest version that a requirement allows; None where it sets no lower bound."""
    lows = [Version(part.version) for part in requirement.specifier if part.operator in (">=", "==", "~=")]
    return max(lows, default=None)


def floor() -> dict[str, Version]:
    found = {canonicalize_name(entry.name): bound(entry) for entry in requirements(FLOOR.read_text(encoding="utf-8"))}
    return {name: low for name, low in found.items() if low is not None}


def below(entries: Iterator[Requirement]) -> list[str]:
    """Those that allow a version under the floor."""
    low = floor()
    named = [(low[canonicalize_name(entry.name)], entry) for entry in entries if canonicalize_name(entry.name) in low]
    return [str(entry) for least, entry in named if (bound(entry) or Version("0")) < least]


def test_every_line_says_which_hole() -> None:
    lines = FLOOR.read_text(encoding="utf-8").splitlines()
    entries = [line for line in lines if line and not line.startswith("#")]
    assert [line.split(">=")[0] for line in entries] == sorted(line.split(">=")[0] for line in entries)
    assert all(re.fullmatch(r"[a-z0-9-]+>=[\d.]+  # CVE-.+", line) for line in entries if "vllm" not in line)
    named = set(re.findall(r"CVE-\d{4}-\d+", "\n".join(lines)))
    assert {
        *("CVE-2025-48944", "CVE-2025-59425", "CVE-2026-22773", "CVE-2026-22807", "CVE-2026-27893"),
        *("CVE-2023-30798", "CVE-2024-24762", "CVE-2024-47874", "CVE-2025-62727", "CVE-2026-42561"),
    } <= named


@pytest.mark.parametrize("path", FILES, ids=lambda path: "-".join(path.relative_to(ROOT).parts))
def test_no_pin_has_a_known_hole(path: Path) -> None:
    assert not below(requirements(path.read_text(encoding="utf-8")))


def test_no_declared_range_reaches_below_it() -> None:
    """Where somebody resolves for themselves: pyproject's lower bounds keep the holes out, too."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"].values()
    declared = [*project["project"]["dependencies"], *(entry for extra in extras for entry in extra)]
    assert not below(map(Requirement, [*declared, *project["build-system"]["requires"]]))


def test_nothing_installed_lies_below_it() -> None:
    low, looked_at = floor(), 0
    for name, least in low.items():
        try:
            found = Version(version(name))
        except PackageNotFoundError:
            continue
        looked_at += 1
        assert found >= least, f"{name} {found} is installed"
    assert looked_at >= 10


@pytest.mark.parametrize(
    "entry", ["vllm==0.17.9", "starlette", "h11>=0.14", "Jinja2==3.1.5", "ray[serve]>=2.53", "fastapi<1"]
)
def test_an_old_version_is_noticed(entry: str) -> None:
    assert below(iter([Requirement(entry)])) == [str(Requirement(entry))]

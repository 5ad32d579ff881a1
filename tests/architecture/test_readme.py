"""README.md is true: its commands exist, its links lead somewhere, its tree is the tree."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.documents import code_blocks

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")),
]


def _text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def _commands(pattern: str) -> set[str]:
    return {found for name in DOCUMENTS for found in re.findall(pattern, _text(name))}


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", _text("Makefile"), re.MULTILINE))
    named = _commands(r"(?:^|`)make ([a-z][a-z-]+)")
    assert {"serve", "test", "bench"} <= named
    assert named <= targets


def test_make_variables_exist() -> None:
    known = set(re.findall(r"^([A-Z]+) \?=", _text("Makefile"), re.MULTILINE))
    assert _commands(r"(?m)^make \w+.*?\b([A-Z]+)=") | {"DEVICE", "FAMILY"} <= known


def test_make_dry_runs() -> None:
    """Every verb's recipe is well-formed; `-n` prints them and runs nothing."""
    verbs = sorted(_commands(r"(?:^|`)make ([a-z][a-z-]+)"))
    done = subprocess.run(["make", "-n", *verbs], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "python -m service serve --engine vllm --device cpu --port 8000" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("package", ["service", "training", "benchmarks", "gram_client"])
def test_python_commands_exist(package: str) -> None:
    """Each command that a document names answers --help. One process a package: the imports are the slow part."""
    verbs = sorted(_commands(rf"python -m {package} ([a-z][a-z-]+)"))
    assert verbs
    code = (
        "import runpy, sys\n"
        f"for verb in {verbs!r}:\n"
        "    sys.argv = ['program', verb, '--help']\n"
        "    try:\n"
        f"        runpy.run_module({package!r}, run_name='__main__')\n"
        "    except SystemExit as stopped:\n"
        "        assert stopped.code == 0, verb\n"
    )
    path = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "client")))}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, env=path)
    assert done.returncode == 0, done.stderr
    assert all(f"program {verb}" in done.stdout or f" {verb} " in done.stdout for verb in verbs)


def test_links_lead_somewhere() -> None:
    broken = []
    for name in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#]+)\)", _text(name)):
            if not target.startswith("http") and not ((ROOT / name).parent / target).exists():
                broken.append(f"{name}: {target}")
    assert not broken


def test_the_tree_names_files_that_exist_and_every_room() -> None:
    named: set[str] = set()
    for line in _text("README.md").split("## The tree")[1].split("\n\n")[1].splitlines():
        parent = "service/" if line.startswith(" " * 6) else ""
        named |= {parent + name for name in re.split(" {2,}", line.strip())[0].split()}
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing
    rooms = {f"service/{p.name}/" for p in (ROOT / "service").iterdir() if p.is_dir() and not p.name.startswith("__")}
    assert rooms <= named


def test_readme_has_examples() -> None:
    curls = [line for block in code_blocks(ROOT / "README.md", "sh") for line in block.splitlines() if "curl" in line]
    assert len(curls) >= 8
    assert code_blocks(ROOT / "README.md", "python")

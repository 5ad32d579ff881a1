"""The distribution: alone, small, and for interpreters older than ours."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

import gram_client
from tests.support.scripted_server import Say, scripted

ROOT = Path(__file__).resolve().parents[2]
CLIENT = ROOT / "client"
SOURCES = sorted(CLIENT.rglob("gram_client/**/*.py"))
PROJECT = tomllib.loads((CLIENT / "pyproject.toml").read_text())["project"]
WITH_HTTPX = ("httpx", "httpcore", "h11", "anyio", "certifi", "idna", "sniffio", "typing_extensions.py")
"""httpx and what it is made of, as folders of site-packages."""


def test_it_needs_httpx_and_nothing_else() -> None:
    assert [re.split(r"[<>=]", need)[0] for need in PROJECT["dependencies"]] == ["httpx"]


def test_its_version_is_the_services() -> None:
    assert PROJECT["version"] == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_everything_that_is_promised_can_be_imported() -> None:
    assert gram_client.__all__ == sorted(gram_client.__all__)
    assert all(hasattr(gram_client, name) for name in gram_client.__all__)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(CLIENT)))
def test_the_grammar_is_that_of_python_3_10(path: Path) -> None:
    ast.parse(path.read_text(), feature_version=(3, 10))


def _without_the_project(tmp_path: Path, *extra: Path) -> dict[str, str]:
    """An environment whose only libraries are httpx's own and these."""
    libraries = tmp_path / "libraries"
    libraries.mkdir()
    installed = Path(sysconfig.get_paths()["purelib"])
    for name in WITH_HTTPX:
        if (installed / name).exists():
            (libraries / name).symlink_to(installed / name)
    if not (installed / "exceptiongroup").exists():  # anyio's backport for Python 3.10, of which it needs the names
        names = (
            "class BaseExceptionGroup(BaseException): ...\nclass ExceptionGroup(BaseExceptionGroup, Exception): ...\n"
        )
        (libraries / "exceptiongroup.py").write_text(names)
    return {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(map(str, (libraries, *extra)))}


def _interpreters() -> list[str]:
    """This one, and a 3.10 where there is one; a version manager's shim may exist and not run."""
    found = [sys.executable]
    managed = sorted(Path.home().glob(".pyenv/versions/3.10.*/bin/python3.10"))
    for candidate in (shutil.which("python3.10"), *map(str, managed)):
        code = "import sys; sys.exit(sys.version_info[:2] != (3, 10))"
        if candidate and subprocess.run([candidate, "-c", code], capture_output=True, check=False).returncode == 0:
            return [*found, candidate]
    return found


CALLS = """
import asyncio, sys
import gram_client, gram_client.__main__
from gram_client import AsyncClient, Client, DeadlineExceeded, Retries, Text

theirs = {name.partition(".")[0] for name in sys.modules}
assert not theirs & {"service", "training", "torch", "pydantic", "trl", "verl", "numpy"}, theirs
url, silent = sys.argv[1:]
with Client(url) as judge:
    assert judge.compare("p", "a", "b").p_first == 0.75
try:
    Client(silent).compare("p", "a", "b", timeout_s=0.5)
except DeadlineExceeded:
    print("sync")


async def main():
    async with AsyncClient(url) as judge:
        assert len(await asyncio.gather(*(judge.compare("p", "a", "b") for _ in range(5)))) == 5
    async with AsyncClient(silent) as judge:
        try:
            await judge.compare("p", "a", "b", timeout_s=0.5)
        except DeadlineExceeded:
            print("async")


asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("python", _interpreters(), ids=lambda path: Path(path).name)
def test_it_works_where_only_httpx_is_installed(python: str, tmp_path: Path) -> None:
    """Both clients, and their deadlines, which are made of other parts before Python 3.11."""
    environment = _without_the_project(tmp_path, CLIENT)
    with scripted(Say()) as server, scripted(Say(after_s=30)) as silent:
        command = [python, "-S", "-c", CALLS, server.url, silent.url]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert done.stdout.split() == ["sync", "async"], done.stderr


@pytest.mark.slow
def test_it_installs_alone(tmp_path: Path) -> None:
    """A wheel from a copy of the folder, unpacked where only httpx is: package, marker of types, command."""
    source = tmp_path / "client"
    shutil.copytree(CLIENT, source, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "build"))
    target = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-deps", "--no-index"]
    command = [*install, "--no-build-isolation", "--no-compile", "--target", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (target / "gram_client/py.typed").exists()
    facts = f"gram_client-{PROJECT['version']}.dist-info"
    assert {path.name for path in target.iterdir()} == {"gram_client", "bin", facts}
    shipped = {path.relative_to(target) for path in target.rglob("gram_client/**/*.py")}
    assert shipped == {path.relative_to(CLIENT) for path in SOURCES}
    environment = _without_the_project(tmp_path, target)
    command = [sys.executable, "-S", str(target / "bin/gram-client"), "score-file", "--help"]
    said = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert "rows to judge" in said.stdout, said.stderr

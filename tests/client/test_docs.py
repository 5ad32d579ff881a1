"""docs/client.md is true: its examples run, and its tables are the code's."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest

from gram_client import Client, Retries, errors
from tests.architecture.documents import code_blocks, table_rows
from tests.support.examples import ROOT, run_python_example, run_shell_example
from tests.support.serving import listening

PAGE = ROOT / "docs/client.md"
pages = pytest.mark.parametrize("page", [PAGE, ROOT / "client/README.md"], ids=lambda page: page.parent.name)


@pytest.mark.slow
@pages
async def test_python_examples(page: Path) -> None:
    blocks = code_blocks(page, "python")
    assert blocks
    async with listening() as api:
        for source in blocks:
            assert (await asyncio.to_thread(run_python_example, source, api.url)).strip()


@pytest.mark.slow
async def test_commands(tmp_path: Path) -> None:
    blocks = code_blocks(PAGE, "sh")
    assert blocks
    async with listening() as api:
        for source in blocks:
            said = await asyncio.to_thread(run_shell_example, source, api.url, tmp_path)
            assert [json.loads(line)["status"] for line in said.splitlines()] == ["ok", "ok"]


def _words(cell: str) -> set[str]:
    return set(re.split(r", ", cell))


def test_every_method_is_listed() -> None:
    listed: set[str] = set()
    for row in table_rows(PAGE):
        if row.heading.startswith("A verdict"):
            listed |= _words(row.cells[0])
    assert listed == {name for name in vars(Client) if not name.startswith("_")} - {"close"}


def test_every_error_is_listed() -> None:
    listed: set[str] = set()
    for row in table_rows(PAGE):
        if row.heading.startswith("What goes wrong"):
            listed |= _words(row.cells[0])
    kinds = {name for name, one in vars(errors).items() if isinstance(one, type) and one.__module__ == errors.__name__}
    assert listed == kinds - {"ScoringError"}


def test_the_default_policy_is_the_one_described() -> None:
    assert Retries() == Retries(attempts=8, first_wait_s=0.25, max_wait_s=8)
    assert "`Retries(attempts=8,\n  first_wait_s=0.25, max_wait_s=8)`" in PAGE.read_text()

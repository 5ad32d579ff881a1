"""The strikes' bookkeeping: what is kept is not repeated, and what was not survived is missed."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import faults
from benchmarks.faults import SERVICE, Seen, _report
from benchmarks.strikes import KINDS

GOOD = Seen("core", 0, "abc", not_ready_s=0.1, before_s=0.2, refusal_s=0.1, ready_s=30.0, outcomes={"200": 5})


def test_a_good_strike_holds() -> None:
    assert _report([GOOD, replace(GOOD, kind=SERVICE, orphans_s=0.5)]).holds


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("not_ready_s", float("inf")),
        ("not_ready_s", 6.0),
        ("before_s", 6.0),
        ("refusal_s", 6.0),
        ("ready_s", float("inf")),
        ("wrong", 1),
    ],
)
def test_what_was_not_survived_is_missed(field: str, value: Any) -> None:
    assert not _report([GOOD, replace(GOOD, number=1, **{field: value})]).holds


def test_a_stopped_core_may_take_longer_and_orphans_may_not() -> None:
    assert _report([replace(GOOD, kind="stop", not_ready_s=34.0, before_s=62.0)]).holds
    assert not _report([replace(GOOD, kind="stop", not_ready_s=36.0)]).holds
    assert not _report([replace(GOOD, kind=SERVICE, orphans_s=11.0)]).holds


def test_an_interrupted_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state, asked = tmp_path / "state.json", []
    state.write_text(json.dumps([asdict(GOOD), asdict(replace(GOOD, kind="nan", commit="other"))]))

    def strikes(arguments: Namespace, kind: str, numbers: Sequence[int], commit: str) -> Iterator[Seen]:
        asked.append((kind, list(numbers)))
        yield from (replace(GOOD, kind=kind, number=number, commit=commit) for number in numbers)

    monkeypatch.setattr(faults, "STATE", state)
    monkeypatch.setattr(faults, "_strike_all", strikes)
    monkeypatch.setattr(faults, "describe_machine", lambda: {"commit": "abc"})
    wanted = Namespace(kind=["core", "nan"], times=2, again=False, model=None, share=1.0, small=False, seed=None)
    assert faults.run(wanted).holds
    assert faults.run(wanted).holds
    assert asked == [("core", [1]), ("nan", [0, 1]), ("core", []), ("nan", [])]
    assert {kind for kind in KINDS if KINDS[kind].not_ready_s > 5} == {"stop"}

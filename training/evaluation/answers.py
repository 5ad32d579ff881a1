"""Answers of judges, one JSON line each, appended as they come: an evaluation that is interrupted goes on from there.

    {"id": "chat/7", "shown": "3f2a...", "judge": "gram@v1/ab12", "label": "a", "subset": "chat", "group": "77e1...",
     "p_first": 0.91, "p_ab": 0.93, "p_ba": 0.11, "margin": 2.4, "consistent": true, "label_mass": 0.99}
    {"id": "chat/8", "shown": "...", "judge": "...", ..., "error": "token_limit", "message": "..."}

An answer counts again only for the same judge version and the same texts in the same positions (``shown``).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from service.types import Verdict
from training.data.pairs import DataError
from training.evaluation.items import Failure, Item, Judged
from training.evaluation.judges.base import Judge
from training.generation.ledger import whole_lines

_FIELDS = ("p_first", "p_ab", "p_ba", "margin", "consistent", "label_mass")


async def judge_all(
    judge: Judge, items: Sequence[Item], path: Path, *, batch: int = 64, concurrency: int = 4, title: str = ""
) -> list[Judged]:
    """Every item with its outcome, in order; what ``path`` already holds is not asked again.

    ``concurrency`` batches are judged at a time. Raises what the judge raises when it can go on no more; the answers
    until then are in the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    known = read_answers(path, judge.version)
    found = {item.pair.id: known[item.fingerprint] for item in items if item.fingerprint in known}
    waiting = [item for item in items if item.pair.id not in found]
    batches = iter([waiting[start : start + batch] for start in range(0, len(waiting), batch)])
    with (
        path.open("a", encoding="utf-8", newline="\n") as out,
        tqdm(total=len(items), initial=len(found), desc=title, unit="pair", disable=None) as bar,
    ):
        async with asyncio.TaskGroup() as workers:
            for _ in range(concurrency):
                workers.create_task(_work(judge, batches, found, out, bar))
    return [Judged(item, found[item.pair.id]) for item in items]


async def _work(
    judge: Judge, batches: Iterator[Sequence[Item]], found: dict[str, Verdict | Failure], out: IO[str], bar: Any
) -> None:
    for items in batches:
        outcomes = await judge.judge([item.pair for item in items])
        for item, outcome in zip(items, outcomes, strict=True):
            found[item.pair.id] = outcome
            out.write(json.dumps(as_answer(item, outcome, judge.version), ensure_ascii=False) + "\n")
        out.flush()
        bar.update(len(items))


def as_answer(item: Item, outcome: Verdict | Failure, version: str) -> dict[str, Any]:
    pair = item.pair
    row: dict[str, Any] = {
        "id": pair.id,
        "shown": item.fingerprint,
        "judge": version,
        "label": pair.label,
        "subset": item.cell,
        "group": item.group,
    }
    if item.unit:
        row["unit"] = item.unit
    if isinstance(outcome, Failure):
        return {**row, "error": outcome.code, "message": outcome.message}
    return {**row, **{field: getattr(outcome, field) for field in _FIELDS}}


def read_answers(path: Path, version: str) -> dict[str, Verdict | Failure]:
    """What this judge version answered before, by what it was shown.

    A last line that a kill cut short is taken away. Raises `DataError` for any other line that is no answer.
    """
    answers: dict[str, Verdict | Failure] = {}
    for row in read_rows(path):
        if row["judge"] == version:
            answers[row["shown"]] = _outcome(row)
    return answers


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All answers of a file; an absent file has none."""
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(whole_lines(path), start=1):
        try:
            row = json.loads(line)
            complete = {"shown", "judge"} <= row.keys() and ("error" in row or row.keys() >= set(_FIELDS))
        except (ValueError, AttributeError):
            complete = False
        if not complete:
            raise DataError(f"{path}, row {number}: not an answer; delete the file to judge everything again.")
        rows.append(row)
    return rows


def _outcome(row: dict[str, Any]) -> Verdict | Failure:
    if "error" in row:
        return Failure(row["error"], row.get("message", ""))
    return Verdict(**{field: row[field] for field in _FIELDS})

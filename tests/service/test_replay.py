"""Commit logs and their replay: bit for bit, over replicas; differences, gaps, doubles and damage are told."""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
from pathlib import Path
from typing import Any

import pytest

from service.__main__ import main
from service.commit_log import CommitLog, dump_commit, load_commit
from service.errors import InvalidInput, StartupError
from service.replay import replay
from service.rewards import Keyed, Normalization, RewardDesk
from service.stores.base import QueueKey
from service.stores.memory import MemoryStore
from tests.support.serving import serving

KEY = QueueKey("q", "gram", "w1", "t1", "reference")
Body = dict[str, Any]


async def write_logs(folder: Path, replicas: int = 3, commits: int = 40, window: int = 20) -> list[Path]:
    """Replicas that race on one queue, each with a log; the queue's export beside them."""
    store, generator = MemoryStore(), random.Random(1)
    paths = [folder / f"replica-{number}.jsonl" for number in range(replicas)]
    logs = [CommitLog(path) for path in paths]
    desks = [RewardDesk(store, log) for log in logs]
    for log in logs:
        log.open()
    asked = Normalization(KEY, window, 1.0, True, 16, 10.0)
    for number in range(commits):
        scores = [generator.gauss(0.0, 10.0 ** (number % 6)) for _ in range(1 + number % 5)]
        await generator.choice(desks).reward(scores, asked, None, b"")
    for log in logs:
        log.close()
        log.close()
    saved = await store.export(KEY)
    assert saved is not None
    (folder / "export.json").write_bytes(saved)
    return paths


@pytest.fixture
def logs(tmp_path: Path) -> list[Path]:
    return asyncio.run(write_logs(tmp_path))


def edit(path: Path, number: int, **changes: Any) -> None:
    """Change fields of a line."""
    lines = path.read_bytes().splitlines()
    lines[number] = json.dumps(json.loads(lines[number]) | changes).encode()
    path.write_bytes(b"\n".join(lines) + b"\n")


def test_logs_of_replicas_replay_to_the_last_bit(logs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", *map(str, logs), str(logs[0].parent / "export.json"), "--complete"]) == 0
    told = capsys.readouterr().out
    assert "40 of 40 commits (120 scores, 1 epochs)" in told
    assert "1 exports agree with the logs in 40 scores" in told  # the window and the first full one


@pytest.mark.parametrize("field", ["mean", "std"])
@pytest.mark.parametrize("number", [0, 5])
def test_one_bit_is_a_difference(logs: list[Path], field: str, number: int, capsys: pytest.CaptureFixture[str]) -> None:
    before = json.loads(logs[1].read_bytes().splitlines()[number])
    edit(logs[1], number, **{field: math.nextafter(before[field], math.inf)})
    assert main(["replay", *map(str, logs)]) == 1
    told = capsys.readouterr().err
    assert f"Entries {before['seq_first']} to {before['seq_last']} of queue q" in told
    assert repr(before[field]) in told


def test_a_changed_score_is_a_difference(logs: list[Path]) -> None:
    before = json.loads(logs[0].read_bytes().splitlines()[3])
    edit(logs[0], 3, scores=[before["scores"][0] + 1.0, *before["scores"][1:]])
    with pytest.raises(InvalidInput, match="comes out as"):
        replay(logs)


def test_a_wrong_count_window_or_overlap_is_a_difference(logs: list[Path]) -> None:
    original = logs[2].read_bytes()
    for changes, complaint in (
        ({"count": 3}, "window held"),
        ({"window": 21}, "its window is 21|window held"),
        ({"seq_first": 1, "seq_last": 1, "scores": [0.5]}, "same entries"),
    ):
        edit(logs[2], 4, **changes)
        with pytest.raises(InvalidInput, match=complaint):
            replay(logs)
        logs[2].write_bytes(original)


def test_a_missing_log_leaves_gaps_and_the_rest_is_checked(logs: list[Path]) -> None:
    lines = [line for path in logs for line in path.read_bytes().splitlines(keepends=True)]
    lines.sort(key=lambda line: load_commit(line).seq_first)
    gone = load_commit(lines.pop(10))
    logs[0].write_bytes(b"".join(lines))
    summary = replay(logs[:1])
    assert [(gap.first, gap.last) for gap in summary.gaps] == [(gone.seq_first, gone.seq_last)]
    assert 0 < summary.unchecked <= 20
    assert summary.commits == 39
    assert main(["replay", str(logs[0])]) == 0
    assert main(["replay", "--complete", str(logs[0])]) == 1


def test_the_same_log_twice_counts_once(logs: list[Path]) -> None:
    summary = replay([*logs, logs[0]])
    assert summary.duplicates == len(logs[0].read_bytes().splitlines())
    assert (summary.commits, summary.gaps, summary.complete) == (40, [], False)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b'{"format": "reward-com', "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[1, 2]", "not a line of a commit log"),
        (b"[" * 100_000, "not valid JSON"),
        ({"version": 2}, "another version"),
        ({"scores": []}, "missing or impossible fields"),
        ({"scores": [math.nan]}, "missing or impossible fields"),
        ({"mean": 1}, "missing or impossible fields"),
        ({"std": -1.0}, "missing or impossible fields"),
        ({"seq_first": 0}, "missing or impossible fields"),
        ({"window": True}, "missing or impossible fields"),
        ({"queue": {"name": "q"}}, "missing or impossible fields"),
        ({"queue": None}, "missing or impossible fields"),
        ({"extra": 1}, "missing or impossible fields"),
    ],
)
def test_a_corrupt_line_is_named(logs: list[Path], line: bytes | Body, complaint: str) -> None:
    lines = logs[0].read_bytes().splitlines()
    lines[2] = line if isinstance(line, bytes) else json.dumps(json.loads(lines[0]) | line).encode()
    logs[0].write_bytes(b"\n".join(lines))
    with pytest.raises(InvalidInput, match=rf"Line 3 of .*replica-0\.jsonl .*{complaint}"):
        replay(logs)


def test_an_export_that_differs_from_the_logs_is_refused(logs: list[Path]) -> None:
    last = max((path for path in logs), key=lambda path: load_commit(path.read_bytes().splitlines()[-1]).seq_last)
    export = last.parent / "export.json"
    lines = last.read_bytes().splitlines()
    last.write_bytes(b"\n".join(lines[:-1]))
    assert [gap.last for gap in replay([*logs, export]).gaps] == [120]
    commit = load_commit(lines[-1])
    other = dump_commit(commit).replace(json.dumps(commit.scores[0]).encode(), b"0.125")
    last.write_bytes(b"\n".join([*lines[:-1], other]))
    with pytest.raises(InvalidInput):
        replay([*logs, export])


def test_an_export_of_another_life_is_a_gap(logs: list[Path], tmp_path: Path) -> None:
    assert replay([logs[0].parent / "export.json"]).gaps[0].last == 120


def test_a_file_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(tmp_path / "none.jsonl")]) == 1
    assert "none.jsonl cannot be read" in capsys.readouterr().err


def test_a_log_that_cannot_be_opened_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartupError, match=r"store\.commit_log"):
        CommitLog(tmp_path / "file" / "log.jsonl").open()


async def test_a_full_disk_leaves_a_gap_and_fails_no_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Half a line was written; the next one starts on a line of its own."""
    log, store = CommitLog(tmp_path / "log.jsonl"), MemoryStore()
    log.open()
    desk, asked = RewardDesk(store, log), Normalization(KEY, 4, 1.0, True, 16, 10.0)
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:30]))
    rewarded, _ = await desk.reward([0.5], asked, None, b"")
    monkeypatch.undo()
    assert rewarded.seq_last == 1
    assert "check the disk" in caplog.text
    for _ in range(6):
        await desk.reward([0.25], asked, None, b"")
    log.close()
    lines = (tmp_path / "log.jsonl").read_bytes().splitlines(keepends=True)
    assert len(lines) == 7
    with pytest.raises(InvalidInput, match="Line 1 of"):
        replay([tmp_path / "log.jsonl"])
    (tmp_path / "log.jsonl").write_bytes(b"".join(lines[1:]))
    summary = replay([tmp_path / "log.jsonl"])
    assert (summary.commits, summary.unchecked, len(summary.gaps)) == (6, 3, 1)


async def test_retries_and_evaluations_write_no_line(tmp_path: Path) -> None:
    log, store = CommitLog(tmp_path / "log.jsonl"), MemoryStore()
    log.open()
    desk, asked = RewardDesk(store, log), Normalization(KEY, 4, 1.0, True, 16, 10.0)
    for _ in range(3):
        await desk.reward([0.5, 0.75], asked, Keyed("key", "body"), b"draft")
    reading = Normalization(KEY, 4, 1.0, False, 16, 10.0)
    await desk.reward([0.5, 0.75], reading, None, b"draft")
    log.close()
    assert len((tmp_path / "log.jsonl").read_bytes().splitlines()) == 1


async def test_the_service_writes_what_it_answers(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "commits.jsonl"
    body = {"items": [{"prompt": "q", "response": "a", "reference": "b"}], "normalize": {"queue": "q"}}
    async with serving({"store": {"type": "memory", "commit_log": str(path)}}) as api:
        replies = [(await api.post("/score", body)).json() for _ in range(3)]
    commits = [load_commit(line) for line in path.read_bytes().splitlines()]
    for reply, commit in zip(replies, commits, strict=True):
        assert [row["score"] for row in reply["results"]] == list(commit.scores)
        assert (reply["queue"]["mean"], reply["queue"]["std"]) == (commit.stats.mean, commit.stats.std)
        assert reply["judge_version"]["weight_version"] == commit.key.weight_version
    assert replay([path]).complete

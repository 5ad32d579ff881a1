"""``score-file``: what it writes, how it goes on after being stopped anywhere, what it refuses."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from gram_client.__main__ import main
from gram_client.progress import Progress
from tests.support.scripted_server import USAGE, VERDICT, VERSION, HangUp, Say, refusal, scripted
from tests.support.serving import listening

ROOT = Path(__file__).resolve().parents[2]
PAIRS = [{"id": f"q{i}", "prompt": f"p{i}", "response_a": "a", "response_b": "b"} for i in range(10)]
REPLY = {"results": [VERDICT], "usage": USAGE, "judge_version": VERSION}


def _write(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _run(source: Path, target: Path, url: str, *more: str) -> int:
    return main(["score-file", str(source), str(target), "--url", url, "--quiet", *more])


KINDS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "pairs": ({"prompt": "p", "response_a": "a", "response_b": "b"}, {"p_first", "preferred"}),
    "preferences": ({"prompt": "p", "chosen": "a", "rejected": "b"}, {"p_first", "preferred"}),
    "references": ({"prompt": [{"role": "user", "content": "p"}], "response": "a", "reference": "b"}, {"score"}),
    "groups": ({"prompt": "p", "responses": ["a", "b", "c"]}, {"scores", "best"}),
    "singles": ({"prompt": "p", "response": "a"}, {"score"}),
}


@pytest.mark.parametrize("kind", KINDS)
async def test_each_kind_of_row_is_judged_in_order(kind: str, tmp_path: Path) -> None:
    row, fields = KINDS[kind]
    rows = [row | {"id": f"q{i}", "prompt": row["prompt"] if i else "other", "more": i} for i in range(7)]
    source, target = _write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    async with listening() as api:
        judge = ["--judge", "scalar"] if kind == "singles" else []
        assert await asyncio.to_thread(_run, source, target, api.url, "--batch", "3", *judge) == 0
    lines = _read(target)
    assert [(line["index"], line["id"], line["status"]) for line in lines] == [(i, f"q{i}", "ok") for i in range(7)]
    assert all(line[field] is not None for line in lines for field in fields)
    assert len({line["judge"] for line in lines}) == 1


async def test_failed_rows_are_marked_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [*PAIRS[:2], PAIRS[2] | {"response_a": ""}, PAIRS[3]]
    source, target = _write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    async with listening() as api:
        assert await asyncio.to_thread(_run, source, target, api.url) == 0
    assert [line["status"] for line in _read(target)] == ["ok", "ok", "failed", "ok"]
    failed = _read(target)[2]
    assert (failed["p_first"], failed["preferred"], failed["error"]["code"]) == (None, None, "invalid_input")
    assert "1 of them failed" in capsys.readouterr().err


@pytest.mark.parametrize("cut", [0, 1, 40, 250, -1, -20])
async def test_a_run_goes_on_wherever_it_was_cut(cut: int, tmp_path: Path) -> None:
    """The file after any cut and another run is the file of an uninterrupted run, and no row is asked twice."""
    source, target = _write(tmp_path / "in.jsonl", PAIRS), tmp_path / "out.jsonl"
    async with listening() as api:
        assert await asyncio.to_thread(_run, source, target, api.url, "--batch", "4") == 0
        whole = target.read_bytes()
        target.write_bytes(whole[:cut])
        kept = target.read_bytes().count(b"\n")
        before = api.engine.calls
        assert await asyncio.to_thread(_run, source, target, api.url, "--batch", "4") == 0
        assert api.engine.calls - before == 2 * (10 - kept)
        assert target.read_bytes() == whole
        assert await asyncio.to_thread(_run, source, target, api.url) == 0  # nothing left to do
        assert api.engine.calls - before == 2 * (10 - kept)


def test_what_was_judged_before_an_error_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = _write(tmp_path / "in.jsonl", PAIRS[:4]), tmp_path / "out.jsonl"
    with scripted(Say(body=REPLY), Say(body=REPLY), Say(500, refusal("internal")), Say(body=REPLY)) as server:
        assert _run(source, target, server.url, "--batch", "1", "--at-once", "1") == 1
        assert "run the command again" in capsys.readouterr().err
        assert [line["index"] for line in _read(target)] == [0, 1]
        assert _run(source, target, server.url, "--batch", "1", "--at-once", "1") == 0
    assert [line["index"] for line in _read(target)] == [0, 1, 2, 3]
    assert [one.json["items"][0]["id"] for one in server.asked] == ["q0", "q1", "q2", "q2", "q3"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_killed_goes_on(number: signal.Signals, tmp_path: Path) -> None:
    source, target = _write(tmp_path / "in.jsonl", PAIRS), tmp_path / "out.jsonl"
    with scripted(Say(body=REPLY, after_s=0.1)) as server:
        arguments = ["score-file", str(source), str(target), "--url", server.url, "--batch", "1", "--at-once", "1"]
        command = [sys.executable, "-m", "gram_client", *arguments]
        environment = os.environ | {"PYTHONPATH": str(ROOT / "client")}
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
            while process.poll() is None and (not target.exists() or not target.stat().st_size):
                time.sleep(0.02)
            process.send_signal(number)
            said = process.communicate(timeout=30)[1]
        assert process.returncode == (130 if number == signal.SIGINT else -9)
        assert ("run the command again" in said) is (number == signal.SIGINT)
        assert 0 < target.read_bytes().count(b"\n") < 10
        assert _run(source, target, server.url, "--batch", "1") == 0
    assert [line["index"] for line in _read(target)] == list(range(10))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "no rows"),
        ("oops\n", "line 1: not JSON"),
        ("[1]\n", "line 1: not an object"),
        ('{"prompt": "p"}\n', "line 1: unknown kind"),
        ('{"prompt": 1, "response": "a"}\n', "line 1: prompt must be"),
        ('{"prompt": "p", "response": "a"}\n\n{"prompt": "p", "response": 2}\n', "line 3: response must be a text"),
        ('{"prompt": "p", "responses": "a"}\n', "line 1: responses must be a list of texts"),
    ],
)
def test_files_that_are_no_rows_are_refused(
    content: str, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(content)
    with scripted(HangUp()) as server:
        assert _run(source, tmp_path / "out.jsonl", server.url) == 2
    assert complaint in capsys.readouterr().err
    assert not server.asked


def test_other_peoples_files_are_not_continued(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = _write(tmp_path / "in.jsonl", PAIRS), tmp_path / "out.jsonl"
    with scripted(Say(body=REPLY)) as server:
        assert _run(source, target, server.url, "--batch", "1") == 0
        mine = target.read_text()
        for rows, complaint in (
            (PAIRS[:5], "more rows"),
            ([PAIRS[0] | {"response_a": "other"}, *PAIRS[1:], PAIRS[0]], "the input has changed"),
        ):
            assert _run(_write(tmp_path / "other.jsonl", rows), target, server.url) == 2
            assert complaint in capsys.readouterr().err
        for foreign in ('{"a": 1}\n', "text\n", mine.splitlines(keepends=True)[1]):
            target.write_text(foreign)
            assert _run(source, target, server.url) == 2
            assert "name another output" in capsys.readouterr().err
            assert target.read_text() == foreign
        assert _run(source, target, server.url, "--batch", "1", "--overwrite") == 0
        assert target.read_text() == mine
        assert _run(tmp_path / "none.jsonl", target, server.url) == 2
        assert "cannot be read" in capsys.readouterr().err


def test_the_progress_line_tells_what_people_ask() -> None:
    now = [0.0]
    stream = io.StringIO()
    progress = Progress(200, 100, stream, lambda: now[0])
    assert "100/200 rows" in progress.line()
    assert "waiting" in progress.line()
    now[0] = 20.0
    progress.advance(40, failed=2)
    assert stream.getvalue() == "[################........] 140/200 rows  2.0/s  0:30 left  2 failed\n".replace(
        "################........", "#" * 16 + "." * 8
    )
    progress.advance(60)
    progress.close()
    assert stream.getvalue().splitlines()[-1].startswith(f"[{'#' * 24}] 200/200 rows  5.0/s  done")


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_the_line_is_rewritten() -> None:
    stream = _Terminal()
    progress = Progress(2, 0, stream, iter([0.0, 1.0, 2.0, 3.0, 4.0]).__next__)
    progress.advance(1)
    progress.advance(1)
    progress.close()
    assert stream.getvalue().count("\r") == 3
    assert stream.getvalue().endswith("\n")
    assert stream.getvalue().count("\n") == 1

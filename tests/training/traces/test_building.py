"""Two passes against a server on the loopback that makes every planned mistake."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from service.judging.rm_r1 import INSTRUCT
from training.data.demo_files import as_pair
from training.data.demo_tasks import TASKS, DemoPair
from training.data.judgments import WrittenJudgment, read_judgments
from training.data.pairs import DataError, Pair, read_objects
from training.evaluation.demo import heldout_pairs
from training.generation.outcomes import GenerationError
from training.pipelines.demo_teacher import MISTAKES, Lesson, demo_teacher, mistake_of, question_key
from training.traces.building import HINT, Case, build_traces, cases_of
from training.traces.teacher import Endpoint, Reply, Teacher


def drawn(count: int) -> tuple[list[Pair], list[DemoPair]]:
    lessons = heldout_pairs(count, seed=4)
    return [as_pair(p, f"p{i}", i % 2 == 0) for i, p in enumerate(lessons)], lessons


def lessons_of(cases: list[Case], lessons: list[DemoPair]) -> dict[str, Lesson]:
    found: dict[str, Lesson] = {}
    for case, lesson in zip(cases, lessons, strict=True):
        shown = WrittenJudgment(case.pair, case.order, "")
        messages = [{"role": m.role, "content": m.content} for m in INSTRUCT.render(shown.shown).messages]
        found[question_key(messages)] = (lesson, shown.letter == "A")
    return found


def build(cases: list[Case], directory: Path, url: str, **options: Any) -> dict[str, Any]:
    async def go() -> dict[str, Any]:
        async with Teacher(Endpoint(url, "demo", **{"first_wait": 0.01, **options}), 8) as teacher:
            return await build_traces(cases, INSTRUCT, directory, teacher, at_once=8)

    return asyncio.run(go())


def test_mistakes_are_corrected_or_listed_and_no_hint_is_kept(tmp_path: Path) -> None:
    pairs, lessons = drawn(240)
    cases = cases_of(pairs, "random", 1)
    plan = Counter(mistake_of(key) for key in lessons_of(cases, lessons))
    assert set(plan) == {None, *MISTAKES}, "every kind of mistake is made"
    with demo_teacher(lessons_of(cases, lessons)) as url:
        card = build(cases, tmp_path, url)
    twice = plan["stubborn"] + plan["parrot"]
    assert card["asked"] == 240 and card["right_at_once"] == plan[None]
    assert card["dropped"] == twice and card["kept"] == 240 - twice
    assert card["first_pass"] == {
        "cut off": plan["cut"],
        "empty": plan["empty"],
        "no verdict": plan["none"],
        "quoted verdict": plan["quoted"],
        "two verdicts": plan["two"],
        "wrong verdict": plan["wrong"] + twice,
    }
    assert card["second_pass"] == {"repeats the hint": plan["parrot"], "wrong verdict": plan["stubborn"]}
    rows = list(read_judgments(tmp_path / "traces.jsonl"))
    assert len(rows) == card["kept"]
    asked = {case.key: INSTRUCT.render(WrittenJudgment(case.pair, case.order, "").shown) for case in cases}
    for row in rows:
        row.require_verdict()
        assert row.family == "rm_r1"
        assert INSTRUCT.render(row.shown) == asked[f"{row.pair.id}/{row.order}"], "byte for byte what was asked"
        assert "independent review" not in row.text
    assert HINT[:20] not in (tmp_path / "traces.jsonl").read_text("utf-8")
    dropped = [data for _, data in read_objects(tmp_path / "dropped.jsonl")]
    assert Counter(row["second"] for row in dropped) == card["second_pass"]
    assert f"{card['kept']} kept" in (tmp_path / "card.md").read_text("utf-8")


def test_an_interrupted_build_leaves_the_same_bytes(tmp_path: Path) -> None:
    pairs, lessons = drawn(40)
    cases = cases_of(pairs, "both", 1)
    facts = lessons_of(cases, [lesson for lesson in lessons for _ in range(2)])
    with demo_teacher(facts) as url:
        build(cases, tmp_path / "whole", url)
        build(cases, tmp_path / "halted", url)
        first = tmp_path / "halted" / "first.jsonl"
        first.write_bytes(first.read_bytes()[:3000])  # a kill in the middle of a line
        (tmp_path / "halted" / "second.jsonl").unlink()
        build(cases, tmp_path / "halted", url)
    for name in ("first.jsonl", "second.jsonl", "traces.jsonl", "dropped.jsonl", "card.json"):
        assert (tmp_path / "halted" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_another_question_is_not_mixed_in(tmp_path: Path) -> None:
    pairs, lessons = drawn(6)
    cases = cases_of(pairs, "random", 1)
    with demo_teacher(lessons_of(cases, lessons)) as url:
        build(cases, tmp_path, url)
        with pytest.raises(DataError, match="was made by"):
            build(cases, tmp_path, url, max_tokens=7)


@contextmanager
def scripted(answers: list[tuple[int, Any]]) -> Iterator[tuple[str, list[int]]]:
    """A server that gives these answers in turn, the last for ever; and how often it was asked."""
    asked: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            status, data = answers[min(len(asked), len(answers) - 1)]
            asked.append(status)
            body = data if isinstance(data, bytes) else json.dumps(data).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()


def ask(url: str, **options: Any) -> Any:
    async def go() -> Any:
        async with Teacher(Endpoint(url, "m", **{"first_wait": 0.01, "tries": 3, **options}), 1) as teacher:
            return await teacher.ask([{"role": "user", "content": "?"}])

    return asyncio.run(go())


FINE = {"choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}], "usage": {"completion_tokens": 1}}


@pytest.mark.parametrize("passing", [(429, {}), (503, {}), (200, b"not json"), (200, {"choices": []})])
def test_what_may_pass_is_tried_again(passing: tuple[int, Any]) -> None:
    with scripted([passing, (200, FINE)]) as (url, asked):
        assert ask(url) == Reply("yes", True, 1, 0)
    assert len(asked) == 2


def test_patience_ends_and_says_why() -> None:
    with scripted([(500, {})]) as (url, asked):
        assert ask(url).code == "teacher_unavailable"
    assert len(asked) == 3


def test_a_teacher_that_does_not_answer_in_time() -> None:
    with demo_teacher({}) as url:
        host = url.removeprefix("http://")
    assert ask(f"http://{host}", tries=2).code == "teacher_unavailable", "nobody listens there any more"


def test_a_slow_teacher_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            import time

            time.sleep(0.5)

        def log_message(self, format: str, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        assert ask(f"http://127.0.0.1:{server.server_address[1]}", timeout=0.1, tries=2).code == "teacher_timeout"
    finally:
        server.shutdown()
        server.server_close()


def test_a_refused_key_ends_the_run() -> None:
    with scripted([(401, {})]) as (url, asked), pytest.raises(GenerationError, match="refuses the key"):
        ask(url)
    assert len(asked) == 1


def test_a_null_text_is_an_empty_trace() -> None:
    with scripted([(200, {"choices": [{"message": {"content": None}, "finish_reason": "stop"}]})]) as (url, _):
        assert ask(url) == Reply("", True, 0, 0)


def test_pairs_without_a_label_cannot_be_verified() -> None:
    pairs, _ = drawn(1)
    with pytest.raises(DataError, match="field label"):
        cases_of([Pair("x", pairs[0].prompt, "a", "b")], "both", 1)


def test_every_task_of_the_demo_has_a_type() -> None:
    from training.data.demo_rubrics import TASK_TYPES

    assert set(TASKS) <= set(TASK_TYPES) and set(TASK_TYPES.values()) == {"chat", "reasoning"}

"""Two passes against a server on the loopback that makes every planned mistake."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from service.judging.rm_r1 import INSTRUCT
from training.data.demo_files import as_pair
from training.data.demo_rubrics import trace
from training.data.demo_tasks import TASKS, DemoPair
from training.data.judgments import ShownPair, read_judgments
from training.data.pairs import DataError, Pair, read_objects
from training.evaluation.demo import heldout_pairs
from training.generation.outcomes import GenerationError
from training.pipelines.demo_teacher import MISTAKES, Lesson, demo_teacher, mistake_of, question_key
from training.traces.building import HINT, build_traces, cases_of
from training.traces.teacher import Endpoint, Reply, Teacher


def drawn(count: int) -> tuple[list[Pair], list[DemoPair]]:
    lessons = heldout_pairs(count, seed=4)
    return [as_pair(p, f"p{i}", i % 2 == 0) for i, p in enumerate(lessons)], lessons


def lessons_of(cases: list[ShownPair], lessons: list[DemoPair]) -> dict[str, Lesson]:
    found: dict[str, Lesson] = {}
    for case, lesson in zip(cases, lessons, strict=True):
        messages = [{"role": m.role, "content": m.content} for m in INSTRUCT.render(case.shown).messages]
        found[question_key(messages)] = (lesson, case.letter == "A")
    return found


def build(cases: list[ShownPair], directory: Path, url: str, **options: Any) -> dict[str, Any]:
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
    asked = {case.key: INSTRUCT.render(case.shown) for case in cases}
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


def test_a_refused_question_is_not_asked_again() -> None:
    with scripted([(400, {})]) as (url, asked):
        assert ask(url).code == "teacher_refused"
    assert len(asked) == 1


def test_a_teacher_that_is_not_there() -> None:
    with demo_teacher({}) as url:
        pass
    assert ask(url, tries=2).code == "teacher_unavailable"


@contextmanager
def slow(drip: bool) -> Iterator[str]:
    """A server that says nothing for half a second, or that keeps saying very little."""

    class Slow(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            if drip:
                self.send_response(200)
                self.end_headers()
            with suppress(OSError):  # nobody listens any more
                for _ in range(50):
                    time.sleep(0.01)
                    self.wfile.write(b" " * drip)

        def log_message(self, format: str, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("drip", [False, True])
def test_a_slow_teacher_times_out(drip: bool) -> None:
    with slow(drip) as url:
        assert ask(url, timeout=0.1, tries=2).code == "teacher_timeout"


def test_what_times_out_or_stays_empty_is_counted_listed_and_never_kept(tmp_path: Path) -> None:
    """Of three pairs one is never answered and one is answered with nothing, twice; later the teacher is well again."""
    pairs, lessons = drawn(3)
    cases = cases_of(pairs, "random", 1)
    facts = lessons_of(cases, lessons)
    late, silent, fine = (f"{case.pair.id}/{case.order}" for case in cases)
    plan = dict(zip(facts, ("late", "silent", "fine"), strict=True))
    asked: Counter[str] = Counter()

    def reply(messages: Any, well: bool) -> tuple[int, Any]:
        key = question_key(messages[: next(i for i, m in enumerate(messages) if m["role"] == "user") + 1])
        asked[plan[key]] += 1
        if plan[key] == "late" and not well:
            time.sleep(0.4)
        text = "  " if plan[key] == "silent" else trace(*facts[key])
        return 200, {"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}

    with talking(lambda messages: reply(messages, False)) as url:
        card = build(cases, tmp_path, url, timeout=0.2, tries=2)
    assert asked == {"late": 2, "silent": 2, "fine": 1}
    assert (card["asked"], card["kept"], card["dropped"]) == (3, 1, 2)
    assert card["first_pass"] == {"empty": 1, "teacher_timeout": 1} and card["second_pass"] == {"empty": 1}
    rows = [data for _, data in read_objects(tmp_path / "dropped.jsonl")]
    assert [(f"{row['id']}/{row['order']}", row["first"], row["second"]) for row in rows] == [
        (late, "teacher_timeout", None),
        (silent, "empty", "empty"),
    ]
    assert [f"{row.pair.id}/{row.order}" for row in read_judgments(tmp_path / "traces.jsonl")] == [fine]
    assert "| teacher_timeout | 1 | 0 |" in (tmp_path / "card.md").read_text("utf-8")
    with talking(lambda messages: reply(messages, True)) as url:
        card = build(cases, tmp_path, url)
    assert asked == {"late": 3, "silent": 2, "fine": 1}, "only what may have passed is asked again"
    assert (card["kept"], card["first_pass"]) == (2, {"empty": 1})


@contextmanager
def talking(reply: Callable[[Any], tuple[int, Any]]) -> Iterator[str]:
    """A server whose answers are made of the conversation."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            status, data = reply(json.loads(self.rfile.read(int(self.headers["content-length"])))["messages"])
            body = json.dumps(data).encode()
            with suppress(OSError):  # whoever asked has left
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
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

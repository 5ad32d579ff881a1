"""A teacher on the loopback that knows the demo tasks and makes planned mistakes: a stand-in for a stronger model.

It answers ``/v1/chat/completions`` as any OpenAI-compatible server does. What goes wrong with a question depends on the
question alone, so that every run sees the same: a wrong verdict, none, two, one in a quotation only, an empty text, a
cut one, and now and then a 429 that passes. Asked again with the verdict it answers rightly, but for a few questions
that it gets wrong twice or answers by repeating what it was told.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any

from training.data.demo_rubrics import trace
from training.data.demo_tasks import DemoPair

MISTAKES = ("wrong", "none", "two", "quoted", "empty", "cut", "stubborn", "parrot")
"""What may happen in the first pass; the last two also in the second."""
ONE_IN = 40
"""A mistake of each kind in so many questions; a passing 429 likewise."""

Lesson = tuple[DemoPair, bool]
"""A pair, and whether its right answer is shown first."""


def question_key(messages: Any) -> str:
    """Names a question by its texts, whatever else a request says."""
    texts = [[m["role"], m["content"]] for m in messages]
    return hashlib.sha256(json.dumps(texts, ensure_ascii=False).encode("utf-8")).hexdigest()


def mistake_of(key: str) -> str | None:
    """The planned mistake of a question, if there is one."""
    place = int(key[:8], 16) % ONE_IN
    return MISTAKES[place] if place < len(MISTAKES) else None


def answer(lesson: Lesson, mistake: str | None, second: bool, told: str) -> tuple[str, str]:
    """Text and finish reason."""
    pair, right_first = lesson
    right, wrong = trace(pair, right_first), trace(pair, not right_first)
    if second:
        return {"stubborn": (wrong, "stop"), "parrot": (f"{told}\n{right}", "stop")}.get(mistake or "", (right, "stop"))
    body, _, verdict = right.rpartition("\n")
    return {
        "wrong": (wrong, "stop"),
        "stubborn": (wrong, "stop"),
        "parrot": (wrong, "stop"),
        "none": (body, "stop"),
        "two": (f"{wrong}\n{verdict}", "stop"),
        "quoted": (f"{body}\n<quote_A>{verdict}</quote_A>", "stop"),
        "empty": ("", "stop"),
        "cut": (right[: len(right) // 2], "length"),
    }.get(mistake or "", (right, "stop"))


class _Server(ThreadingHTTPServer):
    """The lessons, and which questions were asked before."""

    daemon_threads = True

    def __init__(self, lessons: Mapping[str, Lesson]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.lessons = lessons
        self._seen: set[str] = set()
        self._lock = Lock()

    def is_new(self, key: str) -> bool:
        with self._lock:
            known = key in self._seen
            self._seen.add(key)
        return not known

    def reply(self, messages: Any) -> tuple[int, dict[str, Any]]:
        """Status and body for a conversation."""
        first = next(i for i, m in enumerate(messages) if m["role"] == "user") + 1
        key = question_key(messages[:first])
        if key not in self.lessons:
            return 400, {"error": {"message": "no lesson about this"}}
        if self.is_new(key) and int(key[8:16], 16) % ONE_IN == 0:
            return 429, {"error": {"message": "later"}}
        is_second = len(messages) > first
        text, reason = answer(self.lessons[key], mistake_of(key), is_second, messages[-1]["content"])
        usage = {"prompt_tokens": sum(len(m["content"].split()) for m in messages)}
        usage["completion_tokens"] = len(text.split())
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reason}
        return 200, {"object": "chat.completion", "choices": [choice], "usage": usage}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        status, data = self.server.reply(body["messages"])
        payload = json.dumps(data).encode("utf-8")
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(payload)))
        if status == 429:
            self.send_header("retry-after", "0")
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not worth a line each."""


@contextmanager
def demo_teacher(lessons: Mapping[str, Lesson]) -> Iterator[str]:
    """The teacher's address while it runs. ``lessons`` maps `question_key` of a first question to its pair."""
    server = _Server(lessons)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

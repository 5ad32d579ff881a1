"""A server on a loopback port that does what it was told, request by request, and remembers what it was asked.

Written on bare sockets: half of what clients must survive is what no web framework would do.
"""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

VERSION = {"judge": "gram", "weight_version": "1", "template_hash": "t"}
USAGE = {"prompt_tokens": 1, "cached_tokens": 0, "completion_tokens": 0, "comparisons": 1}
VERDICT: dict[str, Any] = {
    "id": None,
    "status": "ok",
    "p_first": 0.75,
    "margin": 1.1,
    "preferred": "a",
    "p_ab": 0.8,
    "p_ba": 0.3,
    "consistent": True,
    "label_mass": 0.99,
    "votes": None,
    "flags": [],
    "usage": USAGE,
    "judge_version": VERSION,
    "error": None,
}


@dataclass(frozen=True)
class Say:
    """Answer with this. ``after_s`` passes first; ``cut`` sends only so many bytes of the body and hangs up;
    ``stall`` sends as many and then nothing more; ``every_s`` sends the body byte by byte."""

    status: int = 200
    body: Any = field(default_factory=lambda: VERDICT)
    headers: Mapping[str, str] = field(default_factory=dict)
    after_s: float = 0.0
    cut: int | None = None
    stall: int | None = None
    every_s: float | None = None

    @property
    def content(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


@dataclass(frozen=True)
class HangUp:
    """Close the connection without an answer."""


Action = Say | HangUp


@dataclass(frozen=True)
class Asked:
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def refusal(code: str, retryable: bool = False, **details: Any) -> dict[str, Any]:
    """The body of an error, as the service writes it."""
    error = {"code": code, "message": f"Told to say {code}.", "request_id": "r-1", "retryable": retryable}
    return {"error": error | ({"details": details} if details else {})}


class Script:
    """The address, what was asked so far, and the actions still to come; the last one repeats."""

    def __init__(self, actions: Sequence[Action]) -> None:
        self.url = ""
        self.asked: list[Asked] = []
        self.connections = 0
        self.ended = 0
        self.released = threading.Event()
        self._actions = list(actions)
        self._lock = threading.Lock()

    def connected(self) -> None:
        with self._lock:
            self.connections += 1

    def disconnected(self) -> None:
        with self._lock:
            self.ended += 1

    def next(self, asked: Asked) -> Action:
        with self._lock:
            self.asked.append(asked)
            return self._actions.pop(0) if len(self._actions) > 1 else self._actions[0]


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 128
    script: Script


class _Handler(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        self.server.script.connected()
        try:
            while (asked := self._read()) is not None and self._act(self.server.script.next(asked)):
                pass
        except OSError:
            pass  # the client has gone
        finally:
            self.server.script.disconnected()

    def _read(self) -> Asked | None:
        first = self.rfile.readline().split()
        if len(first) < 2:
            return None
        headers: dict[str, str] = {}
        while line := self.rfile.readline().strip():
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        body = self.rfile.read(int(headers.get("content-length", 0)))
        return Asked(first[0].decode(), first[1].decode(), headers, body)

    def _act(self, action: Action) -> bool:
        """Does the connection go on?"""
        script = self.server.script
        if isinstance(action, HangUp):
            return False
        script.released.wait(action.after_s)
        content = action.content
        headers = {"Content-Type": "application/json", "Content-Length": str(len(content))} | dict(action.headers)
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.wfile.write(f"HTTP/1.1 {action.status} Told\r\n{head}\r\n".encode())
        if action.every_s is not None:
            for i in range(len(content)):
                self.wfile.write(content[i : i + 1])
                script.released.wait(action.every_s)
            return True
        part = action.cut if action.cut is not None else action.stall
        self.wfile.write(content if part is None else content[:part])
        self.wfile.flush()
        if action.stall is not None:
            script.released.wait(30)
        return part is None


@contextmanager
def scripted(*actions: Action) -> Iterator[Script]:
    """A server that does these things in turn, for the length of the block."""
    script = Script(actions)
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.script = script
        script.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield script
        finally:
            script.released.set()
            server.shutdown()
            thread.join(5)

"""Best of n: the command with a policy behind OpenAI's chat completions, stopped and gone on with, and the helper."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from gram_client import Client
from gram_client.__main__ import main
from gram_client.best_of_n import BestOfNSampler, Choice, Sampling, worth_judging
from gram_client.errors import InvalidRequest
from tests.architecture.documents import code_blocks
from tests.support.bad_days import UNJUDGEABLE, day_of, serving_through
from tests.support.examples import run_python_example


@dataclass
class PolicyServer:
    """Writes what it is asked, numbered; at most `at_once` texts a request, and nothing after `lives` requests."""

    url: str = ""
    at_once: int = 64
    lives: float = float("inf")
    asked: list[dict[str, Any]] = field(default_factory=list)


@contextmanager
def policy() -> Iterator[PolicyServer]:
    state, numbers = PolicyServer(), itertools.count()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            state.asked.append({"path": self.path, "key": self.headers.get("Authorization"), **body})
            state.lives -= 1
            texts = [f"answer {next(numbers)}" for _ in range(min(body["n"], state.at_once))]
            reply = json.dumps({"choices": [{"message": {"role": "assistant", "content": t}} for t in texts]}).encode()
            self.send_response(200 if state.lives >= 0 else 401)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def command_of_the_page(root: Path, folder: Path, service: str, policy_url: str) -> list[str]:
    """The page's own command, with these addresses and files."""
    (block,) = (text for text in code_blocks(root / "docs/trainers/best-of-n.md", "sh") if "best-of-n" in text)
    words = block.replace("\\\n", " ").split()
    assert words[:3] == ["python", "-m", "gram_client"]
    here = {"http://127.0.0.1:8000": service, "http://127.0.0.1:8001/v1": policy_url}
    return [here.get(word, str(folder / word) if word.endswith(".jsonl") else word) for word in words[3:]]


def test_the_command_of_the_page_stopped_and_gone_on_with(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "policy-key")
    chat = [{"role": "user", "content": "Say hello."}]
    prompts: list[Any] = ["What is 2 + 3?", chat, UNJUDGEABLE, "Name a colour."]
    rows = [{"prompt": prompt, "id": f"p{i}"} for i, prompt in enumerate(prompts)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with policy() as server, serving_through(day_of("healthy")) as served:
        command = [*command_of_the_page(root, tmp_path, served.url, server.url), "--at-once", "1"]
        command[command.index("16")] = "4"
        server.lives = 1
        assert main(command) == 1
        first = lines(tmp_path / "best.jsonl")
        assert [line["id"] for line in first] == ["p0"]
        server.lives, server.at_once = float("inf"), 3
        assert main(command) == 0
    found = lines(tmp_path / "best.jsonl")
    assert found[:1] == first, "what was there is not asked again"
    assert [line["status"] for line in found] == ["ok", "ok", "failed", "ok"]
    assert found[2]["error"]["code"] == "non_finite_score"
    for line in (found[0], found[1], found[3]):
        assert len(line["responses"]) == len(line["scores"]) == 4
        assert line["best"] == line["responses"][line["order"][0]]
        assert max(line["scores"]) == line["scores"][line["order"][0]]
    pairs = lines(tmp_path / "pairs.jsonl")
    assert [pair["prompt"] for pair in pairs] == [prompts[0], chat, prompts[3]]
    assert pairs[1]["chosen"] == [{"role": "assistant", "content": found[1]["best"]}]
    assert all(pair["score_chosen"] > pair["score_rejected"] for pair in pairs)
    assert [asked["n"] for asked in server.asked] == [4, 4, 4, 1, 4, 1, 4, 1], "asked again for what is missing"
    assert {asked["key"] for asked in server.asked} == {"Bearer policy-key"}
    assert {asked["path"] for asked in server.asked} == {"/v1/chat/completions"}
    assert "3 preference pairs" in capsys.readouterr().err


def test_another_input_is_refused(tmp_path: Path) -> None:
    source, target = tmp_path / "prompts.jsonl", tmp_path / "best.jsonl"
    source.write_text('{"prompt": "a"}\n')
    target.write_text('{"index": 0, "row": "0123456789abcdef", "status": "ok"}\n')
    options = ["best-of-n", str(source), str(target), "--policy", "http://127.0.0.1:9/v1", "--model", "m"]
    assert main(options) == 2


def test_the_python_of_the_page(root: Path) -> None:
    (block,) = code_blocks(root / "docs/trainers/best-of-n.md", "python")
    with serving_through(day_of("healthy")) as served:
        assert "The answer is" in run_python_example(block, served.url)


def test_equal_and_empty_responses_are_not_judged() -> None:
    assert worth_judging(["a", "b", "a", "  ", "\u200b"]) == ("a", "b")
    with pytest.raises(InvalidRequest):
        worth_judging(["", " "])
    with serving_through(day_of("healthy")) as served, Client(served.url) as client:
        choice = BestOfNSampler(client, lambda prompt, n: ["same"] * n, n=3)("Say something.")
    assert choice.responses == ("same",)
    assert choice.preference() is None


def test_a_preference_needs_a_difference() -> None:
    assert Choice("p", ("a", "b"), (0.5, 0.5), (0, 1)).preference() is None
    assert Choice("p", ("a", "b"), (0.2, 0.8), (1, 0)).preference() == {
        "prompt": "p",
        "chosen": "b",
        "rejected": "a",
        "score_chosen": 0.8,
        "score_rejected": 0.2,
    }


@pytest.mark.parametrize("n", [0, 65])
def test_as_many_as_the_service_ranks(n: int) -> None:
    with pytest.raises(ValueError, match="between 1 and 64"):
        Sampling(n=n)

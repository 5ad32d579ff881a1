"""5,000 single-sample posts from 256 of OpenRLHF's clients at once: all answered, exactly, each judgment made once."""

from __future__ import annotations

import re
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import httpx
from rich.console import Console

from benchmarks.figures import Bar, Report
from benchmarks.processes import Worker
from benchmarks.rollouts import Job, Rewarded, Rollout
from benchmarks.servers import DEADLINE, running_service

SUMMARY = (
    "OpenRLHF's own rollout clients post one sample at a time to /get_reward of a service on the fake engine, which "
    "takes 20 ms for an answer and holds 64 prompts at a time, so that most clients wait in line. By references: every "
    "fifth post repeats an earlier one. By groups: posts of one prompt are put together. Expected numbers are those of "
    "/score on a second service without a cache."
)
MODEL = '[{"name": "gram", "family": "gram"}]'
SERVICE = {
    "GRAM_ENGINE__TYPE": "fake",
    "GRAM_ENGINE__DELAY_S": "0.02",
    "GRAM_STORE__TYPE": "memory",
    "GRAM_JUDGES": MODEL,
    "GRAM_LIMITS__MAX_PROMPTS": "64",
}
PLAIN = {"GRAM_ENGINE__TYPE": "fake", "GRAM_STORE__TYPE": "memory", "GRAM_JUDGES": MODEL, "GRAM_CACHE__ENTRIES": "0"}
GROUP = 4
READY_S, LONGEST_S = 300.0, 3000.0
BATCH = 500
HEADERS = ("mode", "posts", "distinct judgments", "seconds", "posts a second", "requests", "no 200", "engine prompts")


@dataclass(frozen=True, slots=True)
class Outcome:
    """One mode's posts. ``asked`` counts the prompts that reached the engine, of which ``needed`` are necessary;
    ``statuses`` the replies by status."""

    mode: str
    rewarded: Sequence[Rewarded]
    expected: Sequence[float]
    seconds: float
    statuses: Mapping[str, int]
    asked: int
    needed: int

    @property
    def wrong(self) -> int:
        """Posts whose reward is not the expected one to the last bit, or marked as failed."""
        return sum(
            one.reward != [right] or one.scores != [right] or one.extra_logs.get("ok") != [1.0]
            for one, right in zip(self.rewarded, self.expected, strict=True)
        )

    @property
    def refused(self) -> int:
        return sum(count for status, count in self.statuses.items() if status != "200")

    def row(self) -> list[str]:
        posts = len(self.expected)
        rate, sent = f"{posts / self.seconds:.0f}", str(sum(self.statuses.values()))
        middle = [str(posts), str(self.needed // 2), f"{self.seconds:.1f}", rate, sent, str(self.refused)]
        return [self.mode, *middle, str(self.asked)]

    def bars(self) -> list[Bar]:
        return [
            Bar(f"{self.mode}: posts answered", len(self.rewarded), ">=", len(self.expected)),
            Bar(f"{self.mode}: replies that were no 200, 503s among them", self.refused, "<=", 0),
            Bar(f"{self.mode}: rewards that are not exact or not in order", self.wrong, "<=", 0),
            Bar(f"{self.mode}: engine prompts beyond two a distinct judgment", self.asked - self.needed, "<=", 0),
        ]


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--posts", type=int, default=5000, help="single-sample posts of each mode (default 5000)")
    parser.add_argument("--modes", default="references,groups", help="how posts are scored (default: both ways)")
    parser.add_argument("--clients", type=int, default=256, help="OpenRLHF clients at once (default 256)")


def run(arguments: Namespace) -> Report:
    with Worker("benchmarks.openrlhf_clients") as clients:
        with Console(stderr=True).status("OpenRLHF is being imported"):
            version = clients.receive(READY_S)
        outcomes = [
            _measure(clients, mode, MODES[mode](arguments.posts), arguments.clients)
            for mode in arguments.modes.split(",")
        ]
    rows = [outcome.row() for outcome in outcomes]
    bars = [bar for outcome in outcomes for bar in outcome.bars()]
    notes = [f"OpenRLHF {version}, {arguments.clients} clients; a group has {GROUP} posts"]
    return Report("openrlhf", SUMMARY, HEADERS, rows, bars, {"rows": rows}, notes)


def templated(question: str) -> str:
    """A prompt as a ChatML policy has it."""
    return f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"


def by_references(posts: int) -> list[Rollout]:
    """Labels are references; every fifth post is one of the first again."""
    numbers = [number if number % 5 else number // 5 for number in range(posts)]
    return [
        Rollout(templated(f"Question {n % 997}?"), f"Answer {n}.<|im_end|>", f"Reference {n % 997}.") for n in numbers
    ]


def by_groups(posts: int) -> list[Rollout]:
    """`GROUP` responses to each prompt, one after the other as rollouts end."""
    numbers = range(posts - posts % GROUP)
    return [Rollout(templated(f"Question {n // GROUP}?"), f"Answer {n}.<|im_end|>", "") for n in numbers]


MODES = {"references": by_references, "groups": by_groups}


def _measure(clients: Worker, mode: str, rollouts: Sequence[Rollout], count: int) -> Outcome:
    grouped = {"GRAM_COMPAT__COHORT_SIZE": str(GROUP)} if mode == "groups" else {}
    status = Console(stderr=True).status(f"{len(rollouts)} posts by {mode}")
    with status, running_service(SERVICE | grouped) as server:
        rewarded, seconds = clients.ask(Job([f"{server.url}/get_reward"], rollouts, count), LONGEST_S)
        text = httpx.get(f"{server.url}/metrics", timeout=60, trust_env=False).text
    statuses = {
        found[1]: int(float(found[2]))
        for found in re.finditer(r'gram_requests_total\{route="/get_reward",status="(\d+)"\} (\S+)', text)
    }
    asked = re.search(r'gram_repeatable_prompts_total\{outcome="miss"\} (\S+)', text)
    assert asked is not None
    with running_service(PLAIN) as server, httpx.Client(base_url=server.url, timeout=600, trust_env=False) as client:
        expected = _natively(client, mode, rollouts)
    needed = 2 * len(set(rollouts)) if mode == "references" else len(rollouts) * (GROUP - 1)
    return Outcome(mode, rewarded, expected, seconds, statuses, int(float(asked[1])), needed)


def _natively(client: httpx.Client, mode: str, rollouts: Sequence[Rollout]) -> list[float]:
    """The same rollouts through /score, plain texts from the start."""
    scores: list[float] = []
    for at in range(0, len(rollouts), BATCH):
        some = [
            (_question(r.prompt), r.response.removesuffix("<|im_end|>"), r.label) for r in rollouts[at : at + BATCH]
        ]
        if mode == "references":
            items = [{"prompt": q, "response": answer, "reference": label} for q, answer, label in some]
            body: dict[str, object] = {"items": items}
        else:
            groups = [some[i : i + GROUP] for i in range(0, len(some), GROUP)]
            body = {"groups": [{"prompt": g[0][0], "responses": [answer for _, answer, _ in g]} for g in groups]}
        reply = client.post("/score", json=body, headers=DEADLINE).raise_for_status()
        scores += [row["score"] for row in reply.json()["results"]]
    return scores


def _question(prompt: str) -> str:
    return prompt.removeprefix("<|im_start|>user\n").partition("<|im_end|>")[0]

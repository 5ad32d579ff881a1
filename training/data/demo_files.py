"""The demo judge's training files: synthetic pairs in the order of a curriculum, judgments, held-out pairs, tokenizer.

pairs.jsonl       bare questions and answers first; greetings, bold type and closings come in later
judgments.jsonl   the same family of pairs, each with a written judgment, in the same order
dev.jsonl         content that no training pair holds
tokenizer/        a byte-level BPE of this corpus
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tqdm import tqdm

from service.types import Prompt
from training.data.demo_tasks import TASKS, DemoPair, draw, rationale
from training.data.judgments import WrittenJudgment, write_judgments
from training.data.pairs import Pair, write_pairs
from training.data.tokenizer import build_tokenizer

PLAIN_UNTIL, STYLED_FROM = 0.25, 0.55
"""Parts of the files before which all pairs are bare, and from which all are styled; a growing share in between."""
FRANCE = DemoPair("capitals", "What is the capital of France?", "Paris", "Rome", "Paris", "Rome")
"""The self-test: always among the held-out pairs."""


@dataclass(frozen=True, slots=True)
class DemoSizes:
    pairs: int = 60_800
    judgments: int = 38_000
    held_out: int = 225
    vocabulary: int = 2048
    tokenizer_pairs: int = 400
    positions: int = 2048


def write_demo(directory: Path, sizes: DemoSizes, seed: int) -> None:
    """Write all four; the same bytes for the same arguments."""
    build_tokenizer(sizes.vocabulary, sizes.tokenizer_pairs, seed, sizes.positions).save_pretrained(
        directory / "tokenizer"
    )
    drawn = _curriculum(sizes.pairs, Random(f"{seed}/pairs"), "pairs")
    write_pairs(directory / "pairs.jsonl", (as_pair(p, f"demo/{i}", i % 2 == 0) for i, p in enumerate(drawn)))
    drawn = _curriculum(sizes.judgments, Random(f"{seed}/judgments"), "judgments")
    write_judgments(directory / "judgments.jsonl", (_judgment(p, i) for i, p in enumerate(drawn)))
    rng = Random(f"{seed}/held-out")
    held_out = [FRANCE, *(draw(task, rng, from_held_out=True) for task in _in_turn(sizes.held_out - 1))]
    write_pairs(directory / "dev.jsonl", (as_pair(p, f"demo-dev/{i}", i % 2 == 0) for i, p in enumerate(held_out)))


def as_pair(pair: DemoPair, name: str, right_first: bool) -> Pair:
    """In the interchange format."""
    first, second = (pair.right, pair.wrong) if right_first else (pair.wrong, pair.right)
    prompt = Prompt.from_text(pair.prompt)
    return Pair(name, prompt, first, second, "a" if right_first else "b", "demo", subset=pair.task)


def _judgment(pair: DemoPair, number: int) -> WrittenJudgment:
    right_first = number % 2 == 0
    return WrittenJudgment(as_pair(pair, f"demo-r2/{number}", right_first), "ab", rationale(pair, right_first))


def _curriculum(count: int, rng: Random, what: str) -> Iterator[DemoPair]:
    tasks = sorted(TASKS)
    for i in tqdm(range(count), desc=what, mininterval=1, disable=None):
        plain_share = min(1.0, max(0.0, (STYLED_FROM - i / count) / (STYLED_FROM - PLAIN_UNTIL)))
        yield draw(rng.choice(tasks), rng, from_held_out=False, plain=rng.random() < plain_share)


def _in_turn(count: int) -> list[str]:
    names = list(TASKS)
    return [names[i % len(names)] for i in range(count)]

"""A self-training run without models: scripted judge and prover on the fake engine, training that copies nothing.

Pairs say which response is good in plain words; the judge sees it four times in five, the prover now and then writes
something that no rule lets pass. Everything is decided by the request (its seed included), as with a real engine.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from service.byte_tokenizer import byte_tokenizer
from service.engines.base import EngineRequest
from service.engines.fake import FakeEngine, FakeOptions, decode_bytes
from service.judging import gram_r2
from service.types import Prompt
from training.data.judgments import WrittenJudgment, write_judgments
from training.data.pairs import Pair, write_pairs
from training.data.proofs import Letter, Sections, to_proof
from training.generation import engines
from training.selftrain import card, driver
from training.selftrain.recipe import SelfTrainRecipe

RESPONSE = re.compile(r"\[The Start of Assistant ([AB])'s Response\]\n(.*?)\n\[The End", re.DOTALL)


class Killed(BaseException):
    """As a kill would, it passes every handler of errors."""


@dataclass
class Scripts:
    """``die_after`` engine requests, or in training number ``die_in_training`` (from 0), the run ends as if killed."""

    die_after: int | None = None
    die_in_training: int | None = None
    prover: Callable[[EngineRequest], str] | None = None
    sure: float = 2.0
    draws: bool = False
    asked: int = 0
    trained: list[Any] = field(default_factory=list)

    def count(self) -> None:
        self.asked += 1
        if self.die_after is not None and self.asked > self.die_after:
            raise Killed

    def judge_text(self, request: EngineRequest) -> str:
        self.count()
        letter = _good(decode_bytes(request.prompt_ids))
        if (request.seed or 0) % 5 == 0:
            letter = "B" if letter == "A" else "A"
        if (request.seed or 0) % 11 == 0:
            return "I cannot say."
        return _judgment(letter)

    def logits(self, request: EngineRequest) -> tuple[float, float]:
        self.count()
        return (self.sure, 0.0) if _good(decode_bytes(request.prompt_ids)) == "A" else (0.0, self.sure)

    def proof(self, request: EngineRequest) -> str:
        self.count()
        if self.prover is not None:
            return self.prover(request)
        return scripted_proof(request)

    def learn(self, recipe: Any, *, resume: bool = False) -> None:
        """What the real stage leaves behind, made of the recipe alone."""
        if self.die_in_training == len(self.trained):
            raise Killed
        self.trained.append(recipe)
        out = Path(recipe.output.directory)
        out.mkdir(parents=True, exist_ok=True)
        files = [Path(file).read_text() for file in recipe.data.train]
        (out / "config.json").write_text(json.dumps({"version": recipe.version, "rows": sum(map(len, files))}))
        runs = recipe.run_directory
        (runs / "checkpoint-3").mkdir(parents=True, exist_ok=True)
        steps = recipe.schedule.steps or 3
        (runs / "history.jsonl").write_text(json.dumps({"step": steps}) + "\n")
        if recipe.data.evaluation:
            figures = {
                "accuracy": 0.6 + 0.2 * ("final" in recipe.version),
                "accuracy_one_order": 0.6,
                "parse_rate": 1.0,
            }
            (runs / "final.json").write_text(json.dumps(figures))


def scripted_proof(request: EngineRequest) -> str:
    asked = decode_bytes(request.prompt_ids)
    letter: Letter = "A" if "Explain why Response A is better." in asked else "B"
    kind = (request.seed or 0) % 6
    if kind == 0:
        return "No proof."
    if kind == 1:
        letter = "B" if letter == "A" else "A"
    return to_proof(Sections(f"Way {kind} to say it.", "One is good.", f"Response {letter} is better."), letter)


def install(monkeypatch: pytest.MonkeyPatch, scripts: Scripts) -> None:
    """Put the scripts where the driver looks for engines and training."""
    made = engines.open_judge

    @asynccontextmanager
    async def judge(*_: Any, **__: Any) -> AsyncIterator[Any]:
        async with made("", "gram_r2", "fake", script=scripts.judge_text, label_logits=scripts.logits) as opened:
            yield opened

    @asynccontextmanager
    async def prover(*_: Any, **__: Any) -> AsyncIterator[FakeEngine]:
        engine = FakeEngine(FakeOptions(script=scripts.proof))
        await engine.start()
        yield engine

    monkeypatch.setattr(driver, "open_judge", judge)
    monkeypatch.setattr(driver, "offline_engine", prover)
    monkeypatch.setattr(driver, "chat_of", lambda _: byte_tokenizer())
    monkeypatch.setattr(driver, "train_here", scripts.learn)
    if not scripts.draws:
        monkeypatch.setattr(card, "draw_rounds", lambda *_: None)


def write_inputs(home: Path, unlabelled: int = 12) -> dict[str, Any]:
    """The ``data`` table of a recipe."""
    judgments = [WrittenJudgment(pair, "ab", _judgment("A" if pair.label == "a" else "B")) for pair in _pairs(4, "h")]
    write_judgments(home / "rationales.jsonl", judgments)
    for name, count in (("labelled", 4), ("unlabelled", unlabelled), ("dev", 5)):
        write_pairs(home / f"{name}.jsonl", _pairs(count, name))
    return {
        "labelled": (str(home / "labelled.jsonl"),),
        "unlabelled": (str(home / "unlabelled.jsonl"),),
        "rationales": (str(home / "rationales.jsonl"),),
        "evaluation": str(home / "dev.jsonl"),
    }


def recipe(home: Path, name: str = "run", **changes: Any) -> SelfTrainRecipe:
    """A recipe of two rounds; ``changes`` replace tables and fields."""
    fields: dict[str, Any] = {
        "stage": "selftrain",
        "version": "scripted",
        "directory": str(home / name),
        "backbone": "backbone",
        "rounds": 2,
        "data": write_inputs(home),
        "labels": {"votes": 3, "min_confidence": 0.6},
        "proofs": {"candidates": 3, "max_tokens": 600},
        "engine": {"kind": "transformers", "at_once": 4},
        "stages": {
            "shared": {
                "optimizer": {"learning_rate": 1e-3},
                "batch": {"rows": 4, "rows_per_device": 4},
                "output": {"weights": "float32"},
            }
        },
    }
    return SelfTrainRecipe.model_validate(fields | changes)


def files_of(run: Path) -> dict[str, bytes]:
    """Every file of a run by its name: what two equal runs must agree in."""
    return {
        path.relative_to(run).as_posix(): path.read_bytes()
        for path in sorted(run.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def _pairs(count: int, source: str) -> list[Pair]:
    return list(_drawn(count, source))


def _drawn(count: int, source: str) -> Iterator[Pair]:
    for i in range(count):
        texts = (f"good {source} {i}", f"bad {source} {i}")
        first, second = texts if i % 2 == 0 else texts[::-1]
        label: Any = "a" if i % 2 == 0 else "b"
        yield Pair(f"{source}/{i}", Prompt.from_text(f"Question {i} of {source}?"), first, second, label, source)


def _judgment(letter: Letter) -> str:
    return gram_r2.write("One is good.", "It is so.", f"Response {letter} is better.", letter)


def _good(asked: str) -> Letter:
    shown = dict(RESPONSE.findall(asked))
    return "A" if shown["A"].startswith("good") else "B"

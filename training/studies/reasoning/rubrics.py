"""Does a judge gain from solving first, and from saying what kind of task it sees? (RM-R1, arXiv 2505.02387, table 3.)

Half of the pairs are *reasoning*, the digit tasks; half are *chat*: the prompt wishes a closing mark, plain or styled,
and the better response has it; where both have it or neither, the better one begins with the prompt's first digit.

    labels  the verdict alone
    checks  a check of each point of A and B, then the verdict: no rubric, no solution
    rubric  a rubric for every pair: of chat the wished mark and the first digit, of reasoning "the right digits"
    solve   the rubric of chat pairs, of reasoning pairs the solution
    full    first the kind of task, then as ``solve``: RM-R1's chain of rubrics

A point of a rubric, or of a solution, stands before the checks of it, as in all rationales of these studies:
``4 ok ok  2 ok no``. All judges learn from the same pairs in as many steps; longer texts cost more tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from training.studies.backbone import derived_seed, random_for
from training.studies.fitting import Plan
from training.studies.grid import Unit
from training.studies.judges import ANSWER, BAR, CUE, LABEL_A, LABEL_B, PLAIN_ID, STYLED_ID
from training.studies.reasoning.core import FULL, MICRO, SMOKE, Core, pairs_of
from training.studies.reasoning.rationales import BAD, GOOD, PAD, WORDS, Cases, check, displayed, joined
from training.studies.reasoning.writers import Rows, learn, new_writer, write
from training.studies.tasks import DIGITS, Booleans, Integers, draw_prompts

WISH_PLAIN, WISH_STYLED, REASONING, CHAT, CORRECTNESS = range(WORDS, WORDS + 5)
ALL_WORDS = CORRECTNESS + 1

LABELS, CHECKS, RUBRIC, SOLVE, FULL_CHAIN = "labels", "checks", "rubric", "solve", "full"
ARMS = (LABELS, CHECKS, RUBRIC, SOLVE, FULL_CHAIN)
POINT = "mixed"
MARK_WEIGHT = 2
"""Of the mark against the first digit: it decides."""


class Setup(BaseModel):
    """Everything the results depend on, but the code. Half of ``core.rationales`` are of each kind."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seeds: int
    core: Core
    arms: tuple[str, ...] = ARMS


SIZES: dict[str, Setup] = {
    "micro": Setup(seeds=2, core=MICRO),
    "smoke": Setup(
        seeds=2,
        core=SMOKE.model_copy(update={"rationales": 600, "distilling": Plan(steps=100, batch=32)}),
    ),
    "full": Setup(seeds=5, core=FULL.model_copy(update={"rationales": 800, "distilling": Plan(steps=800, batch=32)})),
}
SIZES["pilot"] = SIZES["full"].model_copy(update={"seeds": 1})


@dataclass(frozen=True, slots=True)
class Chat:
    """``B`` chat pairs, the better response apart from the worse."""

    prompt: Integers
    """[B, N] digits."""
    wish: Integers
    """[B]: 1 where a styled mark is wished."""
    better: Integers
    worse: Integers
    """[B, N + 1]: digits, and 1 for styled."""


def draw_chat(count: int, length: int, test: bool, rng: np.random.Generator) -> Chat:
    """Pairs of random responses that differ in what is asked: the mark in half, else the first digit alone."""
    prompt, wish = draw_prompts(count, length, test, rng), rng.integers(0, 2, count)
    by_mark = rng.random(count) < 0.5
    shared = rng.integers(0, 2, count)
    digits = rng.integers(0, DIGITS, (2, count, length))
    on_topic = rng.random((2, count)) < 0.5
    on_topic[0] |= ~by_mark
    on_topic[1] &= by_mark
    other = (prompt[:, 0] + rng.integers(1, DIGITS, (2, count))) % DIGITS
    digits[:, :, 0] = np.where(on_topic, prompt[:, 0], other)
    marks = [np.where(by_mark, wish, shared), np.where(by_mark, 1 - wish, shared)]
    better, worse = (np.concatenate([digits[i], marks[i][:, None]], axis=1) for i in (0, 1))
    return Chat(prompt, wish, better, worse)


def chat_cases(chat: Chat, better_first: Booleans | bool, arm: str) -> Cases:
    """Chat pairs as displayed, with the arm's text."""
    first = np.broadcast_to(np.asarray(better_first), len(chat.wish))[:, None]
    a, b = np.where(first, chat.better, chat.worse), np.where(first, chat.worse, chat.better)
    opening = np.where(chat.wish == 1, WISH_STYLED, WISH_PLAIN)[:, None]
    prompt = np.concatenate(
        [opening, chat.prompt, _all(a, ANSWER), _marked(a), _all(a, BAR), _marked(b), _all(a, CUE)], axis=1
    )
    wished, topic = np.where(chat.wish == 1, STYLED_ID, PLAIN_ID), chat.prompt[:, 0]
    checks = [np.where(said, GOOD, BAD) for side in (a, b) for said in (side[:, -1] == chat.wish, side[:, 0] == topic)]
    rationale = np.stack([checks[0], checks[2], checks[1], checks[3]], axis=1)
    weights = [MARK_WEIGHT, -MARK_WEIGHT, 1, -1]
    rubric = np.stack([wished, topic], axis=1)
    return laid_out(prompt, arm, CHAT, rubric, rubric, rationale, weights, np.where(first, LABEL_A, LABEL_B))


def reasoning_cases(core: Core, cases: Cases, arm: str) -> Cases:
    """`displayed` digit pairs, their rationale laid out as the arm's."""
    steps = cases.text[:, :-1].reshape(len(cases), core.length, 3)
    rationale, solution = steps[:, :, 1:].reshape(len(cases), -1), steps[:, :, 0]
    generic = np.full((len(cases), 1), CORRECTNESS)
    weights = [1, -1] * core.length
    return laid_out(cases.prompt, arm, REASONING, generic, solution, rationale, weights, cases.label[:, None])


def laid_out(
    prompt: Integers,
    arm: str,
    kind: int,
    rubric: Integers,
    solution: Integers,
    checks: Integers,
    weights: list[int],
    label: Integers,
) -> Cases:
    """The parts of a text that the arm has: kind, points with the checks of A and B behind each, verdict [B, 1].

    ``rubric`` [B, 1] opens the text, [B, K] names the point before each of the K pairs of ``checks``, as ``solution``.
    """
    parts: list[tuple[Integers, list[int]]] = []
    if arm == FULL_CHAIN:
        parts.append((_all(label, kind), [0]))
    points = {RUBRIC: rubric, SOLVE: solution, FULL_CHAIN: solution}.get(arm)
    if arm != LABELS:
        parts += _pointed(points, checks, weights)
    parts.append((label, [0]))
    text = np.concatenate([tokens for tokens, _ in parts], axis=1)
    signs = np.array([sign for _, signs in parts for sign in signs])
    return Cases(prompt, text, np.tile(signs, (len(text), 1)), label[:, 0])


def _pointed(points: Integers | None, checks: Integers, weights: list[int]) -> list[tuple[Integers, list[int]]]:
    """Each pair of checks behind its point; one point for all of them opens the text."""
    pairs = checks.shape[1] // 2
    parts: list[tuple[Integers, list[int]]] = []
    if points is not None and points.shape[1] != pairs:
        parts.append((points, [0] * points.shape[1]))
        points = None
    for k in range(pairs):
        if points is not None:
            parts.append((points[:, k : k + 1], [0]))
        parts.append((checks[:, 2 * k : 2 * k + 2], weights[2 * k : 2 * k + 2]))
    return parts


def mixed(core: Core, arm: str, purpose: str, count: int, seed: int, *, test: bool = False) -> tuple[Cases, Cases]:
    """Reasoning and chat pairs, half of ``count`` each, in both orders."""
    pairs = pairs_of(core, purpose, count // 2, seed, test=test)
    chat = draw_chat(count - count // 2, core.length, test, random_for("chat", purpose, seed))
    reasoning = [reasoning_cases(core, displayed(pairs, first), arm) for first in (True, False)]
    return joined(reasoning), joined([chat_cases(chat, first, arm) for first in (True, False)])


def phases(setup: Setup) -> list[list[Unit]]:
    """Every arm."""
    return [[Unit(arm, POINT, seed) for seed in range(setup.seeds) for arm in setup.arms]]


def work(unit: Unit, setup: Setup, folder: Path) -> dict[str, float]:
    """One run."""
    core, seed = setup.core, unit.seed
    reasoning, chat = mixed(core, unit.arm, "human", core.rationales, seed)
    width = max(reasoning.text.shape[1], chat.text.shape[1])
    judge = new_writer(core.shape, seed, ALL_WORDS)
    rows = Rows.true(joined([widened(reasoning, width), widened(chat, width)]))
    learn(judge, rows, core.distilling, derived_seed("distil", seed))
    measures: dict[str, float] = {}
    tests = mixed(core, unit.arm, "test", 2 * core.test_pairs, seed, test=True)
    for name, cases in zip(("reasoning", "chat"), tests, strict=True):
        cases = widened(cases, width)
        written = write(judge, cases.prompt, width).text
        found = check(cases, written).means()
        said = ("accuracy", "invalid") if unit.arm == LABELS else tuple(found)
        measures |= {f"{name}/{key}": found[key] for key in said}
        measures[f"{name}/length"] = float((written != PAD).sum(axis=1).mean())
        if unit.arm == FULL_CHAIN:
            measures[f"{name}/kind"] = float((written[:, 0] == (REASONING if name == "reasoning" else CHAT)).mean())
    measures["accuracy"] = (measures["reasoning/accuracy"] + measures["chat/accuracy"]) / 2
    return measures


def widened(cases: Cases, width: int) -> Cases:
    """Texts with `PAD` behind, so that both kinds are one table."""
    missing = ((0, 0), (0, width - cases.text.shape[1]))
    text, weights = np.pad(cases.text, missing, constant_values=PAD), np.pad(cases.weights, missing)
    return Cases(cases.prompt, text, weights, cases.label)


def _all(like: Integers, token: int) -> Integers:
    return np.full((len(like), 1), token)


def _marked(response: Integers) -> Integers:
    mark = np.where(response[:, -1:] == 1, STYLED_ID, PLAIN_ID)
    return np.concatenate([response[:, :-1], mark], axis=1)

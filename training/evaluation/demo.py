"""The demo judge's test set - pairs of content never trained on - and the baselines that must stay near chance on it.

`heldout_pairs` is what `python -m benchmarks heldout` sends to a running service.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from random import Random

from training.data.demo_tasks import TASKS, DemoPair, draw


def heldout_pairs(n: int, seed: int) -> list[DemoPair]:
    """``n`` different pairs of held-out content, the tasks of the shipped family in turn."""
    names = list(TASKS)
    rng = Random(f"held-out/{seed}")
    seen: set[DemoPair] = set()
    pairs: list[DemoPair] = []
    while len(pairs) < n:
        pair = draw(names[len(pairs) % len(names)], rng, from_held_out=True)
        if pair not in seen:
            seen.add(pair)
            pairs.append(pair)
    return pairs


def length_baseline(train: Sequence[DemoPair], test: Sequence[DemoPair]) -> float:
    """Accuracy of the best rule that sees only lengths: longer wins or shorter wins, as ``train`` says."""
    longer_wins = sum(_sign(len(p.right) - len(p.wrong)) for p in train) >= 0
    scores = [_sign(len(p.right) - len(p.wrong)) * (1 if longer_wins else -1) for p in test]
    return sum(0.5 + 0.5 * s for s in scores) / len(scores)


def style_baseline(train: Sequence[DemoPair], test: Sequence[DemoPair], steps: int = 300) -> float:
    """Accuracy of a logistic regression on style features of both responses, without the question."""
    width = len(style_features(""))
    weights = [0.0] * width
    rows = [_feature_gap(p) for p in train]
    for _ in range(steps):
        gradient = [0.0] * width
        for row in rows:
            miss = 1.0 / (1.0 + math.exp(_dot(weights, row)))
            for i, x in enumerate(row):
                gradient[i] += miss * x
        weights = [w + 0.5 * g / len(rows) for w, g in zip(weights, gradient, strict=True)]
    return sum(0.5 + 0.5 * _sign(_dot(weights, _feature_gap(p))) for p in test) / len(test)


def style_features(text: str) -> tuple[float, ...]:
    """What can be seen of a response without reading it: length, case, marks, greeting, lead-in, closing."""
    checks: tuple[Callable[[str], bool], ...] = (
        lambda t: "**" in t,
        lambda t: "!" in t,
        lambda t: t.endswith("."),
        lambda t: ":" in t,
        lambda t: "," in t,
        lambda t: any(c.isdigit() for c in t),
        lambda t: t[:1].isupper(),
        lambda t: t.isupper(),
        lambda t: any(c in t for c in '[]()"-'),
        lambda t: " is " in t,
        lambda t: t.startswith(("Sure", "Hello", "Good")),
        lambda t: t.endswith(("helps.", "day!")),
        lambda t: "not" in t,
    )
    return (len(text) / 40.0, len(text.split()) / 8.0, *(float(check(text)) for check in checks))


def _feature_gap(pair: DemoPair) -> list[float]:
    return [r - w for r, w in zip(style_features(pair.right), style_features(pair.wrong), strict=True)]


def _dot(a: Sequence[float], b: Sequence[float]) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def _sign(x: float) -> int:
    return (x > 0) - (x < 0)

"""What a study measures of a judge, on pairs whose truth is known."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from training.evaluation.statistics import expected_calibration_error
from training.studies.fitting import Batch
from training.studies.judges import Judge
from training.studies.tasks import PairSet

Floats = npt.NDArray[np.float64]
ROWS = 500
"""Pairs judged at once."""


def measure(judge: Judge, pairs: PairSet) -> dict[str, float]:
    """Both orders of every pair. Shares of pairs:

    ``accuracy``: the probability averaged over both orders names the better response (a tie is half right);
    ``one_order``: one order alone does, averaged over the two; ``inconsistency``: the orders name different ones.
    ``ece`` is the expected calibration error of the averaged probability, ``log_odds`` the mean of |D| in nats.
    """
    better_first, better_second = both_orders(judge, pairs)
    probability = (_sigmoid(better_first) + _sigmoid(better_second)) / 2
    score = np.log(probability) - np.log1p(-probability)
    return {
        "accuracy": _share_right(score),
        "one_order": (_share_right(better_first) + _share_right(better_second)) / 2,
        "inconsistency": float(np.mean((better_first > 0) != (better_second > 0))),
        "ece": expected_calibration_error(score),
        "log_odds": float(np.mean(np.abs(np.concatenate([better_first, better_second])))),
    }


def both_orders(judge: Judge, pairs: PairSet) -> tuple[Floats, Floats]:
    """[B] each, nats: log-odds of the better response, shown first and shown second."""
    truth = pairs.relabelled()
    first, second = [], []
    with torch.inference_mode():
        for start in range(0, len(pairs), ROWS):
            batch = Batch.of(truth.take(slice(start, start + ROWS)))
            first.append(judge.log_odds(batch.prompt, batch.chosen, batch.rejected).double().numpy())
            second.append(-judge.log_odds(batch.prompt, batch.rejected, batch.chosen).double().numpy())
    return np.concatenate(first), np.concatenate(second)


def _share_right(log_odds: Floats) -> float:
    return float(np.mean(np.where(log_odds == 0, 0.5, log_odds > 0)))


def _sigmoid(x: Floats) -> Floats:
    """Kept inside (0, 1), where its log-odds are finite."""
    probability: Floats = np.clip(1.0 / (1.0 + np.exp(-x)), 1e-15, 1.0 - 1e-15)
    return probability

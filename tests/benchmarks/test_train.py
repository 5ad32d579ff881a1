"""The training benchmark: both steps compute the same thing, and its promise is a ratio of rounds."""

from __future__ import annotations

import torch

from benchmarks.train import report
from benchmarks.train_steps import _all_logits, _model, _two_logits
from training.stages.reading import make_readable

ASKED = {"rounds": 3, "vocabulary": 512, "rows": 2, "tokens": 8, "width": 64, "threads": 1}


def test_both_steps_read_the_same_two_logits() -> None:
    torch.manual_seed(0)
    model = _model(ASKED)
    ids = torch.randint(0, 512, (2, 8))
    full = _all_logits(model, ids)
    make_readable(model)
    torch.testing.assert_close(_two_logits(model, ids), full)


def test_the_promise_is_the_median_of_the_rounds_ratios() -> None:
    measured = {
        "ours": {"seconds": [1.0, 1.0, 4.0], "losses": [0.5, 0.4, 0.3]},
        "full": {"seconds": [2.0, 3.0, 4.0], "losses": [0.5, 0.4, 0.3]},
        "parameters": 1_000_000,
    }
    speed, agreement = report(measured, ASKED).bars
    assert (speed.measured, speed.holds) == (2.0, True)
    assert (agreement.measured, agreement.holds) == (0.0, True)
    assert report(measured, ASKED).rows[0][1] == "16"

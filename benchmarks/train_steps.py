"""The two kinds of training step that `train` compares, a program of its own: settings in, one JSON line out."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM

from training.objectives.preference import right_margin, smoothed_ranking_loss
from training.stages.reading import Wanted, make_readable

LABELS = (35, 36)
SMOOTHING = 0.05


def main() -> None:
    asked: dict[str, int] = json.loads(sys.argv[1])
    torch.set_num_threads(asked["threads"])
    torch.manual_seed(1)
    full = _model(asked)
    ours = deepcopy(full)
    make_readable(ours)
    ids = torch.randint(100, asked["vocabulary"], (asked["rows"], asked["tokens"]))
    label = torch.arange(asked["rows"]) % 2
    steps = {"ours": _Step(ours, _two_logits), "full": _Step(full, _all_logits)}
    for number in range(asked["rounds"] + 1):
        for step in steps.values():
            step.run(ids, label, counts=number > 0)
    measured: dict[str, Any] = {name: {"seconds": s.seconds, "losses": s.losses} for name, s in steps.items()}
    print(json.dumps({**measured, "parameters": sum(p.numel() for p in full.parameters())}))


def _model(asked: dict[str, int]) -> Qwen3ForCausalLM:
    width = asked["width"]
    config = Qwen3Config(
        vocab_size=asked["vocabulary"],
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=4,
        num_attention_heads=width // 64,
        num_key_value_heads=max(1, width // 128),
        head_dim=64,
        max_position_embeddings=asked["tokens"],
        tie_word_embeddings=True,
    )
    return Qwen3ForCausalLM(config)


class _Step:
    """A model, its optimizer, and how it gets at the two label logits."""

    def __init__(self, model: Qwen3ForCausalLM, read: Callable[[Any, Tensor], Tensor]) -> None:
        self._model, self._read = model.train(), read
        self._optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        self.seconds: list[float] = []
        self.losses: list[float] = []

    def run(self, ids: Tensor, label: Tensor, *, counts: bool) -> None:
        started = time.perf_counter()
        loss = smoothed_ranking_loss(right_margin(self._read(self._model, ids), label), SMOOTHING).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()
        if counts:
            self.seconds.append(time.perf_counter() - started)
            self.losses.append(loss.item())


def _two_logits(model: Any, ids: Tensor) -> Tensor:
    rows = torch.arange(len(ids))
    wanted = Wanted(rows, torch.full_like(rows, ids.shape[1] - 1), torch.tensor(LABELS))
    (pair,) = model(input_ids=ids, attention_mask=torch.ones_like(ids), wanted=[wanted])
    return pair


def _all_logits(model: Any, ids: Tensor) -> Tensor:
    """As the published trainer does: every position times the whole vocabulary, then one position and two columns."""
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.float()
    return logits[:, -1, list(LABELS)]


if __name__ == "__main__":
    main()

"""The demo judge in process, through plain transformers: what training measures itself with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from service.judging import gram, gram_r2
from training.data.demo_tasks import DemoPair
from training.data.encoding import Encoder, Row, padded
from training.evaluation.demo import LabelReport, OrderReadings, label_report
from training.stages.shared_prefix import hidden_after_prefix

_ROWS = 128


@dataclass(frozen=True, slots=True)
class RationaleReport:
    """Greedy judgments, both orders counted singly. ``accuracy`` counts unparsed text as wrong."""

    accuracy: float
    parsed: float
    by_task: dict[str, tuple[int, int]]


class DemoJudge:
    """A model and its tokenizer, asked in both formats."""

    def __init__(self, model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self.label = Encoder(tokenizer, gram.FAMILY)
        self.rationale = Encoder(tokenizer, gram_r2.FAMILY)

    def label_report(self, pairs: Sequence[DemoPair]) -> LabelReport:
        return label_report(pairs, self.read(pairs))

    def read(self, pairs: Sequence[DemoPair]) -> list[OrderReadings]:
        """Direct labels of both orders."""
        rows = self.label.both_orders(pairs)
        p_right, mass = [0.0] * len(rows), [0.0] * len(rows)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids))
        for start in range(0, len(rows), _ROWS):
            chunk = order[start : start + _ROWS]
            for i, (p, m) in zip(chunk, self._read_rows([rows[i] for i in chunk]), strict=True):
                p_right[i], mass[i] = p, m
        return [OrderReadings(p_right[i], p_right[i + 1], min(mass[i], mass[i + 1])) for i in range(0, len(rows), 2)]

    def _read_rows(self, rows: Sequence[Row]) -> list[tuple[float, float]]:
        """(P(right) within the two labels, mass of both labels) of each row."""
        ids = torch.tensor(padded(rows, self._model.config.pad_token_id))
        at = torch.tensor([row.prompt_len - 1 for row in rows])
        with torch.inference_mode():
            hidden = hidden_after_prefix(self._model, torch.tensor(self.label.prefix), ids)
            logprobs = self._model.lm_head(hidden[torch.arange(len(rows)), at]).float().log_softmax(-1)
        pair = logprobs[:, torch.tensor(self.label.label_ids)]
        right = pair.softmax(-1)[torch.arange(len(rows)), torch.tensor([row.label for row in rows])]
        return list(zip(right.tolist(), pair.logsumexp(-1).exp().tolist(), strict=True))

    def rationale_report(self, pairs: Sequence[DemoPair], max_new_tokens: int = 160) -> RationaleReport:
        """Greedy judgments of both orders, read by the family's own parser."""
        rows = self.rationale.both_orders(pairs)
        by_task: dict[str, tuple[int, int]] = {}
        correct = parsed = 0
        order = sorted(range(len(rows)), key=lambda i: rows[i].prompt_len)
        for start in range(0, len(rows), _ROWS):
            chunk = order[start : start + _ROWS]
            for i, text in zip(chunk, self._write([rows[i] for i in chunk], max_new_tokens), strict=True):
                verdict = gram_r2.FAMILY.parse(text).verdict
                hit = verdict == "AB"[rows[i].label]
                parsed += verdict != "invalid"
                correct += hit
                task = pairs[i // 2].task
                before = by_task.get(task, (0, 0))
                by_task[task] = (before[0] + hit, before[1] + 1)
        return RationaleReport(correct / len(rows), parsed / len(rows), by_task)

    def _write(self, rows: Sequence[Row], max_new_tokens: int) -> list[str]:
        """Greedy continuations of the rows' prompts."""
        prompts = [[*self.rationale.prefix, *row.ids[: row.prompt_len]] for row in rows]
        longest = max(map(len, prompts))
        pad = self._model.config.pad_token_id
        ids = torch.tensor([[pad] * (longest - len(p)) + p for p in prompts])
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
        out = self._model.generate(
            ids, attention_mask=mask, max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=pad
        )
        return [str(text) for text in self._tokenizer.batch_decode(out[:, longest:], skip_special_tokens=True)]

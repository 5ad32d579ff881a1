"""Token rows as a trainer takes them: what to read where (`Read`), what to write (`Span`), and batches of both.

A row of stage 1 is one span (both responses), of stage 2 one read (the label after the last token). A batch is a
dictionary of tensors: ``input_ids`` and ``attention_mask`` [B, T], padded on the right, and for each kind of read or
span its positions in one flat list, as `training.stages.reading.Wanted` has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from training.data.rows import Stage1Row, Stage2Row

Batch = dict[str, Tensor]
CUT = "cut_rows"
"""In logs: the share of rows that were longer than the limit and lost the ends of their texts."""


@dataclass(frozen=True, slots=True)
class Read:
    """After token ``at``, one of two tokens is right: the first (0) or the second (1) of the kind's pair."""

    kind: str
    at: int
    right: int


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens ``start`` to ``end - 1`` are to be predicted."""

    kind: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Example:
    """One sequence and what is learned from it. ``family`` numbers the judge prompt it begins with; ``cut`` tokens
    of its texts were left out to fit the limit."""

    ids: tuple[int, ...]
    reads: tuple[Read, ...] = ()
    spans: tuple[Span, ...] = ()
    family: int = 0
    cut: int = 0


def response_example(row: Stage1Row) -> Example:
    """Stage 1: everything after the opening is written."""
    return Example(row.ids, spans=(Span("responses", row.completion_start, len(row.ids)),), cut=row.cut)


def label_example(row: Stage2Row) -> Example:
    """Stage 2: the label is read after the last token."""
    return Example(row.ids, reads=(Read("label", len(row.ids) - 1, row.label),), cut=row.cut)


def collate(examples: Sequence[Example], pad_id: int) -> Batch:
    """A batch of examples, and how many tokens each lost (``cut`` [B]). Kinds that no row has are absent."""
    longest = max(len(example.ids) for example in examples)
    ids = torch.full((len(examples), longest), pad_id)
    mask = torch.zeros_like(ids)
    flat: dict[str, list[int]] = {}
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = torch.tensor(example.ids)
        mask[row, : len(example.ids)] = 1
        for read in example.reads:
            _add(flat, read.kind, rows=[row], columns=[read.at], right=[read.right])
        for span in example.spans:
            positions = range(span.start, span.end)
            columns, targets = [p - 1 for p in positions], [example.ids[p] for p in positions]
            _add(flat, span.kind, rows=[row] * len(columns), columns=columns, targets=targets)
    tensors = {name: torch.tensor(values) for name, values in flat.items()}
    return {"input_ids": ids, "attention_mask": mask, "cut": torch.tensor([e.cut for e in examples]), **tensors}


def _add(flat: dict[str, list[int]], kind: str, **columns: list[int]) -> None:
    for name, values in columns.items():
        flat.setdefault(f"{kind}.{name}", []).extend(values)


def collate_families(
    examples: Sequence[Example], pad_id: int, prefixes: Sequence[tuple[int, ...]]
) -> dict[str, list[Batch]]:
    """One batch for each family among the examples, without the tokens all prompts of the family begin with.

    Raises `AssertionError` for a row that does not begin with its family's prefix.
    """
    families = sorted({example.family for example in examples})
    return {"parts": [_without_prefix(examples, pad_id, family, prefixes[family]) for family in families]}


def _without_prefix(examples: Sequence[Example], pad_id: int, family: int, prefix: tuple[int, ...]) -> Batch:
    cut, rows = len(prefix), [example for example in examples if example.family == family]
    assert all(row.ids[:cut] == prefix for row in rows), "A row does not begin with its family's prefix."
    shorter = [
        Example(
            row.ids[cut:],
            tuple(Read(r.kind, r.at - cut, r.right) for r in row.reads),
            tuple(Span(s.kind, s.start - cut, s.end - cut) for s in row.spans),
            cut=row.cut,
        )
        for row in rows
    ]
    return {**collate(shorter, pad_id), "family": torch.tensor(family)}

"""FLASK's outputs (arXiv 2307.10928): one answer of each of many models, not judged. Unlabelled pairs for stage 1."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from training.data.formats.base import Format, Read, Row

EXAMPLE = {
    "idx": 1,
    "task": "invented",
    "instruction": "Name a prime number.",
    "reference": "7",
    "domain": ["Math"],
    "outputs": {"one": "7 is prime.", "another": "9 is prime.", "third": "11."},
}


def read(row: Row) -> Iterator[Read]:
    """Each answer is in one pair at most: with n answers, floor(n / 2) pairs, drawn by a hash of prompt and model."""
    prompt, outputs = row.text("instruction"), row.mapping("outputs")
    for model, text in outputs.items():
        if not isinstance(text, str):
            raise row.fault("outputs", f"of {model} must be a text.")
    drawn = sorted(outputs, key=lambda model: hashlib.sha256(f"{prompt}\x1f{model}".encode(errors="replace")).digest())
    for i, (first, second) in enumerate(zip(drawn[::2], drawn[1::2], strict=False)):
        yield row.pair(prompt, outputs[first], outputs[second], None, part=str(i), subset=row.text("task"))


FORMAT = Format(
    "flask",
    "an instruction, answers of many models, no labels",
    frozenset({"instruction", "outputs", "task"}),
    EXAMPLE,
    read,
)

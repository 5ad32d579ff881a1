"""Samples of one policy against one reference answer, with a judge's preference from 1 (reference) to 2 (sample)."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite

from training.data.formats.base import Format, Read, Row
from training.data.pairs import PairLabel

EXAMPLE = {
    "prompt": "Name a prime number.",
    "dataset": "helpful_base",
    "reference_gpt35": "7 is prime.",
    "outputs": ["9 is prime.", "11 is prime, and so is 13."],
    "pref_vs_ref": {"0": 1.02, "1": 1.91},
}


def read(row: Row) -> Iterator[Read]:
    """Above 1.5 the sample is better; the margin is the distance from 1.5. Samples nobody judged make no pair."""
    outputs = row.sequence("outputs")
    for key, preference in row.mapping("pref_vs_ref").items():
        if not str(key).isdecimal() or int(key) >= len(outputs) or not isinstance(outputs[int(key)], str):
            raise row.fault("pref_vs_ref", f"names output {key!r}, which is not there.")
        if isinstance(preference, bool) or not isinstance(preference, int | float) or not isfinite(preference):
            raise row.fault("pref_vs_ref", f"holds no number for output {key}.")
        label: PairLabel | None = None if preference == 1.5 else "b" if preference > 1.5 else "a"
        texts = row.text("reference_gpt35"), outputs[int(key)]
        margin = round(abs(preference - 1.5), 6)
        yield row.pair(row.text("prompt"), *texts, label, part=str(key), margin=margin, subset=row.text("dataset"))


FORMAT = Format(
    "rewardbench_bon",
    "one reference, many samples, preferences against it",
    frozenset({"prompt", "reference_gpt35", "outputs", "pref_vs_ref"}),
    EXAMPLE,
    read,
)

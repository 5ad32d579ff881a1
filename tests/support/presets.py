"""What the paper leaves open about its recipes, given."""

from __future__ import annotations

from training.presets import resolve

GIVEN = (
    "batch.rows=256",
    "data.max_tokens=2048",
    "schedule.kind=cosine",
    "schedule.warmup=0.1",
    "optimizer.weight_decay=0.0",
)
ADAPTATION = ("schedule.epochs=1", "optimizer.learning_rate=1e-5")


def changes_for(name: str) -> tuple[str, ...]:
    """The changes without which a named recipe of the paper is none."""
    unset = resolve(name).unset
    return tuple(change for change in (*GIVEN, *ADAPTATION) if change.partition("=")[0] in unset)

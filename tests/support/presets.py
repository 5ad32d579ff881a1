"""What the paper leaves open about its recipes, given."""

from __future__ import annotations

GIVEN = (
    "batch.rows=256",
    "data.max_tokens=2048",
    "schedule.kind=cosine",
    "schedule.warmup=0.1",
    "optimizer.weight_decay=0.0",
)


def changes_for(name: str) -> tuple[str, ...]:
    """The changes without which a named recipe of the paper is none."""
    return GIVEN if name.startswith("gram-paper/") else ()

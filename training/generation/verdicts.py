"""A verdict with its written votes as a JSON object, and back; the shape is that of the service's `POST /rationale`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from service.types import Flag, Rationale, Usage, Verdict, Votes

_NUMBERS = ("p_first", "margin", "p_ab", "p_ba", "consistent", "label_mass")


def row_of(verdict: Verdict) -> dict[str, Any]:
    """All of it but how much of the prompts was cached, which depends on the run."""
    usage = verdict.usage
    return {
        **{name: getattr(verdict, name) for name in _NUMBERS},
        "votes": verdict.votes and asdict(verdict.votes),
        "flags": [asdict(flag) for flag in verdict.flags],
        "usage": {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens},
        "rationales": [asdict(rationale) for rationale in verdict.rationales],
    }


def verdict_of(row: Mapping[str, Any]) -> Verdict:
    """The verdict of a row, or of a reply."""
    usage = row["usage"]
    return Verdict(
        **{name: row[name] for name in _NUMBERS},
        votes=row["votes"] and Votes(**row["votes"]),
        flags=tuple(Flag(**flag) for flag in row["flags"]),
        usage=Usage(usage["prompt_tokens"], 0, usage["completion_tokens"], 1),
        rationales=tuple(Rationale(**rationale) for rationale in row["rationales"]),
    )

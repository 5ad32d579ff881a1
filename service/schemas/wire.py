"""JSON as it comes and goes: bodies parsed, replies written."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from pydantic import BaseModel
from pydantic_core import from_json

from service.errors import InvalidJson


def parse_json(sent: bytes) -> Any:
    """Raises `InvalidJson`, also for JSON too deep or numbers too long for Python."""
    with suppress(ValueError):  # several times as fast; other encodings and lone surrogates it leaves to Python's own
        return from_json(sent)
    try:
        return json.loads(sent)
    except (ValueError, RecursionError) as error:
        raise InvalidJson("The body is not valid JSON.") from error


def dumped(reply: BaseModel) -> bytes:
    """As ``model_dump_json`` writes it, without a text in between."""
    return reply.__pydantic_serializer__.to_json(reply)


def written(reply: object) -> bytes | None:
    """A model's bytes, without a search among the kinds of replies that its route may give; None for anything else."""
    return dumped(reply) if isinstance(reply, BaseModel) else None

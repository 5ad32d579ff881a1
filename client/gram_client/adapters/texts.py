"""Texts and chats as trainers hold them, made into what the service reads."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

from gram_client.items import Prompt

ROLES = {"developer": "system", "human": "user", "gpt": "assistant", "model": "assistant", "function": "tool"}
"""Other names of the four roles that the service knows."""


def text_of(content: Any) -> str:
    """The text of a message's content: a string, a list of parts of which only the text ones count, or None."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, Mapping):
        return str(content.get("text") or "")
    return "\n".join(filter(None, map(text_of, content)))


def prompt_of(prompt: Any) -> Prompt:
    """A text stays as it is; of messages, role and text are kept."""
    if isinstance(prompt, str):
        return prompt
    return [{"role": ROLES.get(str(m["role"]), str(m["role"])), "content": text_of(m.get("content"))} for m in prompt]


def response_of(completion: Any) -> str:
    """A text; of messages the last one of the assistant: what came before it (tool calls, their results) is not the
    answer."""
    if isinstance(completion, str):
        return completion
    said = [text_of(message.get("content")) for message in completion if message.get("role") == "assistant"]
    return said[-1] if said else ""


def is_visible(text: str) -> bool:
    """Whether there is anything to judge: white space and format characters alone are refused by the service."""
    return any(not char.isspace() and unicodedata.category(char) != "Cf" for char in text)


def key_of(prompt: Prompt) -> str:
    """The same for equal prompts only."""
    return prompt if isinstance(prompt, str) else json.dumps(list(prompt), sort_keys=True)


def grouped(keys: Iterable[str]) -> dict[str, list[int]]:
    """Positions of equal keys, in the order of their first."""
    groups: dict[str, list[int]] = {}
    for position, key in enumerate(keys):
        groups.setdefault(key, []).append(position)
    return groups

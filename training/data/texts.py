"""Texts made comparable: what is the same wording, whatever its case, spacing and punctuation."""

from __future__ import annotations

import re
import unicodedata

from service.types import Prompt

# Scripts written without spaces: each character is a word.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")
_SPACE = re.compile(r"\s+")


def words(text: str) -> list[str]:
    """Letters and digits, case-folded, in words; characters of scripts without spaces are words of their own."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def spaced(text: str) -> str:
    """The text with every run of white space as one space: what is the same byte for byte but for layout."""
    return _SPACE.sub(" ", text).strip()


def wording(text: str) -> str:
    """The words of a text; a text without any (symbols only) stands for itself."""
    return " ".join(words(text)) or spaced(text)


def first_question(prompt: Prompt) -> str:
    """The user's first turn, by which conversations that begin alike are kept together; all turns if there is none."""
    asked = next((m.content for m in prompt.messages if m.role == "user" and m.content.strip()), "")
    return asked or whole_text(prompt)


def whole_text(prompt: Prompt) -> str:
    return "\n".join(message.content for message in prompt.messages)

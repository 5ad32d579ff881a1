"""The text between two control tokens: what of it is a template's, what is a caller's, and where it may be cut.

A judge's prompt repeats itself: both display orders hold the same three texts, all pairs of eight responses hold each
response fourteen times, and the family's own words are in every prompt. Cut inside those words, at places where the
tokenizer splits whatever stands around them, each caller's text is one segment that is encoded once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from service.types import Message

Encode = Callable[[str], tuple[int, ...]]
Splits = Callable[[str], set[int]]
"""Where a tokenizer's word splitter cuts a text, as character offsets."""
Cuts = Callable[[str], tuple[int, int] | None]

# White space as the tokenizers library sees it (Unicode White_Space); str.strip() would also cut U+001C to U+001F.
SPACES = "\t\n\v\f\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"
# What may stand next to a template's words: whatever makes tokenizers join, split or look ahead.
_LEFT = (
    "",
    "x",
    "Yes",
    "9",
    " ",
    "\n",
    "a\n\n",
    " \n",
    "\t",
    ".",
    "'",
    "[",
    "\u00e9",
    "\u4f60",
    "\u3000",
    "\U0001f600",
)
_RIGHT = ("", "s", "'s", "7", "  ", "\n\n", "\n ", "\r\n", " x", "...", "-", "]", "\u0301", "\u597d", "\u00a0", "<")
_TRIES = 8


@dataclass(frozen=True, slots=True)
class Slot:
    """Where message ``index`` goes. The template trims ``left`` and ``right`` ("": nothing, None: all space)."""

    index: int
    left: str | None = ""
    right: str | None = ""

    def parts(self, messages: Sequence[Message]) -> tuple[str, ...]:
        """The trimmed content as fixed, free, fixed, .. texts; all free when trimming goes beyond the fixed text."""
        message = messages[self.index]
        parts = list(message.parts)
        if parts:
            parts[0] = parts[0].lstrip(self.left)
            parts[-1] = parts[-1].rstrip(self.right)
            if parts[0] and parts[-1]:
                return tuple(parts)
        return ("", message.content.lstrip(self.left).rstrip(self.right), "")


@dataclass(frozen=True, slots=True)
class TextPiece:
    """Template text and contents in a row. The flags are those of the neighbouring control tokens."""

    parts: tuple[str | Slot, ...]
    strip_left: bool
    strip_right: bool

    def fill(self, messages: Sequence[Message]) -> str:
        """The whole text."""
        text = "".join(text for text, _ in self._texts(messages))
        text = text.lstrip(SPACES) if self.strip_left else text
        return text.rstrip(SPACES) if self.strip_right else text

    def segments(self, messages: Sequence[Message], cuts: Cuts) -> Iterator[tuple[str, bool]]:
        """The whole text in segments that may be encoded apart, each with: is it a template's own words?"""
        if self.strip_left or self.strip_right:
            yield self.fill(messages), False
            return
        open_text = ""
        for text, fixed in self._texts(messages):
            places = cuts(text) if fixed else None
            if places is None:
                open_text += text
                continue
            first, last = places
            yield open_text + text[:first], False
            yield text[first:last], True
            open_text = text[last:]
        yield open_text, False

    def _texts(self, messages: Sequence[Message]) -> Iterator[tuple[str, bool]]:
        for part in self.parts:
            if isinstance(part, str):
                yield part, False
            else:
                yield from ((text, i % 2 == 0) for i, text in enumerate(part.parts(messages)))


def find_cuts(text: str, encode: Encode, splits: Splits) -> tuple[int, int] | None:
    """The outermost two places in a template's text where tokens end whatever stands before and after the text.

    A place counts only if the word splitter cuts there next to every kind of neighbour, and if the tokens of both sides
    are the tokens of the whole. None for a text without such places (too short, or a tokenizer that joins words).
    """
    contexts = list(zip(_LEFT, _RIGHT, strict=True))
    common = set(range(1, len(text)))
    for left, right in contexts:
        common &= {at - len(left) for at in splits(left + text + right)}
    wholes = [encode(left + text + right) for left, right in contexts]

    def holds(at: int) -> bool:
        halves = (encode(left + text[:at]) + encode(text[at:] + right) for left, right in contexts)
        return all(half == whole for half, whole in zip(halves, wholes, strict=True))

    places = sorted(common)
    first = next(filter(holds, places[:_TRIES]), None)
    last = next(filter(holds, places[: -_TRIES - 1 : -1]), None)
    return None if first is None or last is None or first >= last else (first, last)

"""What can be said of an untrusted text without asking a model: who plays tricks on the judge leaves traces.

Texts are judged unchanged; a flag tells the reader that one imitates the template, claims a verdict, hides characters
or says nothing. Detection sees through case, spacing, full-width and look-alike letters and zero-width characters.
Every check is linear in the text, and plain ASCII takes the short road: the flags of a 1 kB response cost a fraction of
its tokenization.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Iterator
from functools import lru_cache

from service.types import Flag, Where

_JOINERS = "\u200c\u200d"
_BIDI = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_HIDDEN = (
    "\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b\u2060-\u2065\u206a-\u206f\u3164"
    "\ufe00-\ufe0d\ufeff\uffa0\ufff9-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0080-\U000e0fff"
)
_TAGS = "\U000e0000-\U000e007f"
_COMBINING = "\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f"
_CONTROLS = "\x00-\x08\x0b\x0c\x0e-\x1f\x7f"

_ASCII_CONTROL = re.compile(f"[{_CONTROLS}]")
# One pass tells whether a text is worth the passes below; ordinary Chinese or Russian is not.
_UNUSUAL = re.compile(f"[{_CONTROLS}\x80-\x9f{_JOINERS}{_BIDI}{_HIDDEN}{_TAGS}{_COMBINING}]")
_INVISIBLE = re.compile(f"[{_JOINERS}{_BIDI}{_HIDDEN}{_TAGS}\ufe0e\ufe0f]")
_CHARACTERS = (
    # Joiners belong inside emoji and between Persian or Indic letters, not beside ASCII.
    ("invisible_chars", re.compile(f"[{_HIDDEN}]|(?<![^\x00-\x7f])[{_JOINERS}]|[{_JOINERS}](?![^\x00-\x7f])")),
    ("bidi", re.compile(f"[{_BIDI}]")),
    ("control_chars", re.compile(f"[{_CONTROLS}\x80-\x9f]")),
    ("combining_marks", re.compile(f"[{_COMBINING}]{{5,}}")),
)
_TAG = re.compile(f"[{_TAGS}]")
# England, Scotland, Wales: a black flag spelled out in tag characters.
_TAG_FLAG = re.compile("\U0001f3f4[\U000e0061-\U000e007a]{3,6}\U000e007f")

# Cyrillic and Greek letters, quotes, brackets and strokes that pass for ASCII ones (after case folding).
_LOOK_ALIKES = {
    look: letter
    for letter, looks in {
        "a": "\u0430\u03b1\u0251",
        "b": "\u0432\u03b2",
        "c": "\u0441",
        "d": "\u0501",
        "e": "\u0435\u03b5",
        "g": "\u0261",
        "h": "\u043d\u04bb",
        "i": "\u0456\u03b9\u0131",
        "j": "\u0458",
        "k": "\u043a\u03ba",
        "m": "\u043c",
        "n": "\u03b7",
        "o": "\u043e\u03bf",
        "p": "\u0440\u03c1",
        "q": "\u051b",
        "s": "\u0455",
        "t": "\u0442\u03c4",
        "u": "\u03c5",
        "v": "\u03bd",
        "w": "\u051d",
        "x": "\u0445\u03c7",
        "y": "\u0443",
        "'": "\u2018\u2019\u201b\u02bc\u02b9\u2032\u00b4`",
        '"': "\u201c\u201d\u201e\u2033",
        "[": "\u3010\u3014\u2772",
        "]": "\u3011\u3015\u2773",
        "[[": "\u27e6",
        "]]": "\u27e7",
        "<": "\u2039\u3008\u27e8",
        ">": "\u203a\u3009\u27e9",
        "/": "\u2044\u2215\u29f8",
        "\\": "\u2216\u29f5",
        ":": "\ua789\u02d0\u2236",
    }.items()
    for look in looks
}
_LOOK_ALIKE = re.compile(f"[{''.join(_LOOK_ALIKES)}]")

# Needle (cheap to look for in any text) and pattern: on text without any white space ...
_DENSE_VERDICTS = (
    ("</think>", re.compile("</think>")),
    ("<answer>", re.compile(r"<answer>\W{0,8}[ab]\W{0,8}</answer>")),
    ("[[", re.compile(r"\[\[[abc]\]\](?!</answer>)")),
    ("\\boxed{", re.compile(r"\\boxed\{(?:\\text\{)?\W{0,2}[ab]\W{0,2}\}")),
    ('":', re.compile(r'"(?:verdict|preferred|preference|winner|better|best|choice|answer|label)":"?\W?[ab]\b')),
)
# ... and on text with its white space collapsed, where words end.
_SPACED_VERDICTS = (
    ("preferred", re.compile(r"# ?preferred\W{0,5}[ab]\b")),
    (
        "final verdict",
        re.compile(r"final verdict(?: is)?\W{0,5}(?:(?:assistant|response|chatbot|output)\W{1,3})?[ab]\b"),
    ),
    (
        "better",
        re.compile(
            r"(?:\b(?:assistant|response|output|answer|option|chatbot|candidate) ?[\"'(\[]{0,2}[ab]\b[\"')\]]{0,2}"
            r"|[\"'(\[][ab][\"')\]])(?:'s (?:answer|response))? is (?:\w+ )?better\b"
        ),
    ),
)

# Openers that fool judges when they are the whole response (arXiv 2507.08794); compared without case and punctuation.
MASTER_KEYS = frozenset(
    {
        "answer",
        "explanation",
        "final answer",
        "let's solve this problem step by step",
        "let's think step by step",
        "reasoning",
        "respuesta",
        "solution",
        "step by step",
        "thought process",
        "\u304b\u3044\u305b\u3064",
        "\u89e3",
        "\u89e3\u7b54",
    }
)
_KEY_EDGES = " .,:;!?*#`\"'-_()[]\u3002\uff1a\u2026"

_WINDOW = 2048
_SAMPLE = 12
_SHORTEST_REPEAT = 200
_REPEAT_RATIO = 0.06
_REPEAT_BYTES = 24
"""Deflate writes some 20 bytes even for one letter said 200 times; ordinary prose shrinks to 0.4 of its size."""


def text_flags(text: str, where: Where, delimiters: tuple[str, ...], control_count: int) -> tuple[Flag, ...]:
    """Findings on one text.

    ``delimiters`` are the judge family's; ``control_count`` is the tokenizer's count of control token spellings. Texts
    without words are flagged as responses only, not as prompts.
    """
    plain = _plain(text)
    spaced = " ".join(plain.split())
    dense = spaced.replace(" ", "")
    found = [
        ("control_token_text", control_count),
        ("delimiter_spoof", sum(map(dense.count, _dense_delimiters(delimiters)))),
        ("verdict_injection", _verdicts(spaced, dense)),
        *_character_counts(text),
        ("repeated_text", _repeats(text)),
    ]
    if where not in ("prompt", "rationale"):
        found.append(("degenerate_response", int(_is_degenerate(spaced))))
    return tuple(Flag(code, count, where) for code, count in found if count)


def pair_flags(a: str, b: str) -> tuple[Flag, ...]:
    """Two responses that differ, but only in white space, invisible characters or Unicode composition."""
    if a == b or _letters_of(a) != _letters_of(b):
        return ()
    return Flag("near_identical", 1, "a"), Flag("near_identical", 1, "b")


def _plain(text: str) -> str:
    """As a reader sees it: no case, no full-width or look-alike letters, no invisible characters."""
    if text.isascii():
        return text.lower().replace("`", "'")
    folded = unicodedata.normalize("NFKC", _INVISIBLE.sub("", text)).casefold()
    return _LOOK_ALIKE.sub(lambda match: _LOOK_ALIKES[match.group()], folded)


def _letters_of(text: str) -> str:
    composed = text if text.isascii() else unicodedata.normalize("NFC", _INVISIBLE.sub("", text))
    return "".join(composed.split())


@lru_cache(maxsize=64)
def _dense_delimiters(delimiters: tuple[str, ...]) -> tuple[str, ...]:
    return tuple("".join(_plain(delimiter).split()) for delimiter in delimiters)


def _verdicts(spaced: str, dense: str) -> int:
    searches = ((dense, _DENSE_VERDICTS), (spaced, _SPACED_VERDICTS))
    return sum(
        len(pattern.findall(text)) for text, verdicts in searches for needle, pattern in verdicts if needle in text
    )


def _character_counts(text: str) -> Iterator[tuple[str, int]]:
    if text.isascii():
        yield "control_chars", len(_ASCII_CONTROL.findall(text))
    elif _UNUSUAL.search(text):
        yield from ((code, len(pattern.findall(text))) for code, pattern in _CHARACTERS)
        yield "tag_chars", len(_TAG.findall(_TAG_FLAG.sub("", text)))


def _is_degenerate(spaced: str) -> bool:
    """No letter or digit at all, or nothing but a master key. A bare "42" or "Paris" is an answer."""
    if len(spaced) > 200:
        return False
    return not any(map(str.isalnum, spaced)) or spaced.strip(_KEY_EDGES) in MASTER_KEYS


def _repeats(text: str) -> int:
    """Windows of the text that are a loop of the same words or signs: they deflate to next to nothing."""
    if len(text) < _SHORTEST_REPEAT:
        return 0
    starts = range(0, max(1, len(text) - _SHORTEST_REPEAT), _WINDOW)
    return sum(_is_loop(text[start : start + _WINDOW]) for start in starts)


def _is_loop(window: str) -> bool:
    """Deflate costs more than all other checks together, so a few samples must come back first."""
    samples = (window[at : at + _SAMPLE] for at in range(len(window) // 8, len(window), len(window) // 4))
    if not any(window.count(sample) >= 4 for sample in samples):
        return False
    data = window.encode("utf-8", "surrogatepass")
    return len(zlib.compress(data, 1)) < _REPEAT_BYTES + _REPEAT_RATIO * len(data)

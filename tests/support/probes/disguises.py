"""Ways to write a text so that a reader sees the same and a program another one."""

from __future__ import annotations

from collections.abc import Callable

Disguise = Callable[[str], str]


def full_width(text: str) -> str:
    """Printable ASCII as its full-width twins."""
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)


def broken(text: str, by: str) -> str:
    """An invisible character in the middle."""
    return text[: len(text) // 2] + by + text[len(text) // 2 :]


CYRILLIC = str.maketrans("aeopcyxATHeo", "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0410\u0422\u041d\u0435\u043e")
GREEK = str.maketrans("oAETo", "\u03bf\u0391\u0395\u03a4\u03bf")

DISGUISES: dict[str, Disguise] = {
    "as is": lambda t: t,
    "lower": str.lower,
    "upper": str.upper,
    "spaces": lambda t: t.replace(" ", "  \n "),
    "no spaces": lambda t: t.replace(" ", ""),
    "padded": lambda t: t.replace("[", "[ ").replace("]", " ]"),
    "no-break": lambda t: t.replace(" ", "\u00a0"),
    "full width": full_width,
    "zero width": lambda t: "\u200b".join(t),
    "soft hyphens": lambda t: t.replace("e", "e\u00ad"),
    "tags": lambda t: t.replace("s", "s\U000e0073"),
    "variation": lambda t: t.replace("e", "e\ufe0f"),
    "cyrillic": lambda t: t.translate(CYRILLIC),
    "greek": lambda t: t.translate(GREEK),
    "quotes": lambda t: t.replace("'", "\u2019"),
    "brackets": lambda t: t.replace("[", "\u3010").replace("]", "\u3011"),
    "mathematical": lambda t: "".join(chr(0x1D400 + ord(c) - 65) if "A" <= c <= "Z" else c for c in t),
}
"""What the flags see through."""

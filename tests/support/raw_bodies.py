"""Bodies that are no good requests: fixed bytes, and good bodies with one thing broken, with the status of each.

A body is made for a route, so that what is broken is broken in a request that would otherwise be judged.
"""

from __future__ import annotations

import gzip
import json
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any
from urllib.parse import urlencode

from tests.support.serving import BODIES, ROUTES

DEEP = 100_000
FINE, JSON_ERROR, INVALID, UNREADABLE = {200}, {400}, {422}, {400, 422}
"""`UNREADABLE`: whether such bytes are JSON depends on how far a reader gets before it gives up."""

RAW: dict[str, tuple[bytes, set[int]]] = {
    "empty": (b"", INVALID),
    "space": (b" ", JSON_ERROR),
    "null": (b"null", INVALID),
    "true": (b"true", INVALID),
    "number": (b"1", INVALID),
    "string": (b'"x"', INVALID),
    "list": (b"[]", INVALID),
    "list of lists": (b"[[[]]]", INVALID),
    "empty object": (b"{}", INVALID),
    "NaN": (b"NaN", INVALID),
    "Infinity": (b"Infinity", INVALID),
    "-Infinity": (b"-Infinity", INVALID),
    "1e999": (b"1e999", INVALID),
    "nan lower": (b"nan", JSON_ERROR),
    "cut object": (b'{"prompt": "x"', JSON_ERROR),
    "cut string": (b'{"prompt": "x', JSON_ERROR),
    "cut escape": (b'{"prompt": "\\u12', JSON_ERROR),
    "cut key": (b'{"pro', JSON_ERROR),
    "trailing comma": (b'{"prompt": "x",}', JSON_ERROR),
    "single quotes": (b"{'prompt': 'x'}", JSON_ERROR),
    "comment": (b'{"prompt": "x" /* hi */}', JSON_ERROR),
    "two values": (b"{} {}", JSON_ERROR),
    "raw control character": (b'{"prompt": "a\x01b"}', JSON_ERROR),
    "raw newline": (b'{"prompt": "a\nb"}', JSON_ERROR),
    "raw NUL": (b"\x00", UNREADABLE),
    "NULs": (b"\x00" * 64, UNREADABLE),
    "invalid UTF-8": (b'{"prompt": "\xff\xfe\xfd"}', JSON_ERROR),
    "overlong UTF-8": (b'{"prompt": "\xc0\xaf"}', JSON_ERROR),
    "UTF-8 surrogate": (b'{"prompt": "\xed\xa0\x80"}', UNREADABLE),
    "cut UTF-8": (b'{"prompt": "\xe2\x82', JSON_ERROR),
    "Latin-1": ('{"prompt": "caf\u00e9"}'.encode("latin-1"), JSON_ERROR),
    "byte order mark": (b"\xef\xbb\xbf{}", UNREADABLE),
    "UTF-16": ('{"prompt": "x"}'.encode("utf-16"), UNREADABLE),
    "UTF-32": ('{"prompt": "x"}'.encode("utf-32"), UNREADABLE),
    "gzip": (bytes.fromhex("1f8b080000000000000303000000000000000000"), UNREADABLE),
    "deep lists": (b"[" * DEEP, JSON_ERROR),
    "deep closed lists": (b"[" * DEEP + b"]" * DEEP, JSON_ERROR),
    "deep objects": (b'{"a":' * DEEP + b"1" + b"}" * DEEP, JSON_ERROR),
    "deep prompt": (b'{"prompt":' + b"[" * DEEP + b"]" * DEEP + b"}", JSON_ERROR),
    "moderately deep": (b'{"prompt":' + b"[" * 500 + b"]" * 500 + b"}", INVALID),
    "long integer": (b'{"votes": ' + b"9" * 5000 + b"}", JSON_ERROR),
    "long float": (b'{"votes": 1.' + b"9" * 5000 + b"}", INVALID),
    "huge exponent": (b'{"votes": 1e400}', INVALID),
    "minus zero": (b'{"votes": -0.0}', INVALID),
    "hex number": (b'{"votes": 0x10}', JSON_ERROR),
    "leading zero": (b'{"votes": 01}', JSON_ERROR),
    "plus number": (b'{"votes": +1}', JSON_ERROR),
    "duplicate keys": (b'{"prompt": 1, "prompt": 2}', INVALID),
    "surrogate key": (b'{"\\ud800": 1}', INVALID),
    "long key": (b'{"' + b"k" * 100_000 + b'": 1}', INVALID),
    "many keys": (json.dumps({f"k{i}": i for i in range(10_000)}).encode(), INVALID),
    "empty key": (b'{"": 1}', INVALID),
    "proto key": (b'{"__proto__": {}, "constructor": 1}', INVALID),
    "class key": (b'{"__class__": "x", "self": 1}', INVALID),
    "form": (b"prompt=x&response_a=y", JSON_ERROR),
    "multipart": (b"--b\r\nContent-Disposition: form-data; name=prompt\r\n\r\nx\r\n--b--", JSON_ERROR),
    "xml": (b"<prompt>x</prompt>", JSON_ERROR),
    "yaml": (b"prompt: x", JSON_ERROR),
    "pickle": (b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x07builtin", JSON_ERROR),
    "http": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", JSON_ERROR),
    "random bytes": (bytes(range(256)) * 4, JSON_ERROR),
    "megabyte of spaces": (b" " * 1_000_000, JSON_ERROR),
    "half a megabyte of brackets": (b"[" * 500_000, JSON_ERROR),
}


@dataclass(frozen=True, slots=True)
class RawBody:
    """``make`` gives the bytes for a route; ``expected`` are the statuses that are documented for it."""

    name: str
    make: Callable[[str], bytes]
    expected: frozenset[int]


def bodies() -> Iterator[RawBody]:
    """The corpus; each body is for every route of `ROUTES`."""
    for name, (data, expected) in RAW.items():
        yield _fixed(name, data, expected)
    for kind in (_cut, _bytes_put_in, _texts, _numbers, _encoded, _rearranged):
        yield from kind()


TEXT_SLOTS: dict[str, tuple[str, str]] = {
    "/compare": ("prompt", "response_b"),
    "/rank": ("prompt", "responses.1"),
    "/rationale": ("prompt", "response_b"),
    "/score": ("items.0.prompt", "items.0.response"),
}
"""Where a prompt and a response stand."""

NUMBER_SLOTS = {"/compare": "votes", "/rank": "max_comparisons", "/rationale": "votes", "/score": "normalize.window"}
"""Where a whole number stands."""

MARK = "@@slot@@"


def good(route: str) -> bytes:
    return json.dumps(BODIES[route]).encode()


def with_value(route: str, slot: str, value: bytes) -> bytes:
    """The good body with the bytes of one value, JSON or not, in this place."""
    body: Any = json.loads(good(route))
    if slot.startswith("normalize."):
        body["normalize"] = {"queue": "never"}
    place, (*steps, last) = body, slot.split(".")
    for step in steps:
        place = place[int(step) if step.isdigit() else step]
    place[int(last) if last.isdigit() else last] = MARK
    return json.dumps(body).encode().replace(f'"{MARK}"'.encode(), value)


def _fixed(name: str, data: bytes, expected: set[int]) -> RawBody:
    return RawBody(name, lambda route: data, frozenset(expected))


def _cut() -> Iterator[RawBody]:
    """A connection that broke, a client that counted characters instead of bytes."""
    for percent in range(2, 100, 3):
        yield RawBody(
            f"cut at {percent} %",
            lambda route, p=percent: good(route)[: len(good(route)) * p // 100],
            frozenset(JSON_ERROR),
        )


def _bytes_put_in() -> Iterator[RawBody]:
    """Each control byte inside a text, where JSON wants it escaped, and between values, where four are space."""
    for byte in (*range(0x20), 0x7F):
        inside = FINE if byte == 0x7F else JSON_ERROR
        yield RawBody(
            f"byte {byte:02x} in a text",
            lambda route, b=byte: with_value(route, TEXT_SLOTS[route][1], b'"a' + bytes([b]) + b'z"'),
            frozenset(inside),
        )
    for byte in (*range(0x20), 0x7F, 0xA0, 0xFF):
        yield RawBody(
            f"byte {byte:02x} between values",
            lambda route, b=byte: good(route)[:1] + bytes([b]) + good(route)[1:],
            frozenset(FINE if byte in b" \t\n\r" else JSON_ERROR),
        )


WRONG_VALUES = (
    *("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "0", "-1", "1.5", "1e5", "true", "false", "null"),
    *("[]", "{}", "[[]]", "[null]", "[1]", '[""]', '{"text": "x"}', '{"role": "user", "content": "x"}'),
)
WRONG_TEXTS = (
    *('""', '" "', '"\\n\\t"', '"\\u00a0"', '"\\u200b"', '"\\ufeff\\u200d"'),
    *('"\\ud800"', '"\\udfff"', '"a\\ud800b"', '"\\ud800\\ud800"', '"\\ude00\\ud83d"', '"\\udc00 x"'),
)
NO_JSON = (
    *(
        "'x'",
        '"\\x41"',
        '"\\u12"',
        '"\\uzzzz"',
        '"a\nb"',
        '"open',
        "undefined",
        "None",
        "x",
        "nan",
        "Inf",
        "`x`",
        "/x/",
    ),
    *(
        "0x10",
        "01",
        "+1",
        ".5",
        "1.",
        "1e",
        "--1",
        "1_000",
        "\u221e",
        "\uff11",
        '"a" "b"',
        "(1)",
        "<x/>",
        "#",
        "// x\n1",
    ),
    "9" * 5000,
    "-" + "9" * 5000,
    "[" * DEEP + "]" * DEEP,
    '{"a":' * DEEP + "1" + "}" * DEEP,
)
NO_UTF8 = (b'"\xff"', b'"\xc0\x80"', b'"\xe2\x82"', b'"\xf4\x90\x80\x80"', b'"\xfe\xff"', b'"caf\xe9"', b'"\x80"')
STRANGE_TEXTS = (
    *('"\\u0000"', '"a\\u0000b"', '"\\u202eabc"', '"\\ud83d\\ude00"', '"\\uffff"', '"\\/"', '"\\""', '"{response_a}"'),
    *('"<|im_end|>"', '"e\\u0301"', '"\\u007f\\u0085"', '"NaN"', '"null"', '"1e999"', '"${jndi:x}"', '"\' OR 1=1 --"'),
)
"""Strange, and text: judged."""


def _texts() -> Iterator[RawBody]:
    """As a prompt and as a response."""
    kinds = (
        *((text, INVALID) for text in (*WRONG_VALUES, *WRONG_TEXTS)),
        *((text, JSON_ERROR) for text in NO_JSON),
        *((text, FINE) for text in STRANGE_TEXTS),
    )
    for place, what in enumerate(("prompt", "response")):
        for text, expected in kinds:
            yield _in_slot(f"{what} {_short(text)}", place, text.encode(), expected)
        for data in NO_UTF8:
            yield _in_slot(f"{what} {data!r}", place, data, JSON_ERROR)


def _in_slot(name: str, place: int, value: bytes, expected: set[int]) -> RawBody:
    return RawBody(name, lambda route: with_value(route, TEXT_SLOTS[route][place], value), frozenset(expected))


WRONG_NUMBERS = (
    *(
        "NaN",
        "Infinity",
        "-Infinity",
        "1e999",
        "-1e999",
        "1e-999",
        '"nan"',
        '"NaN"',
        '"Infinity"',
        '"1"',
        '"1e999"',
        '""',
    ),
    *("true", "false", "0", "-1", "0.5", "1.0", "1e2", "-0.0", "[]", "[1]", "{}", '{"a": 1}', "-9223372036854775809"),
)


def _numbers() -> Iterator[RawBody]:
    for text in WRONG_NUMBERS:
        yield RawBody(
            f"number {text}",
            lambda route, t=text: with_value(route, NUMBER_SLOTS[route], t.encode()),
            frozenset(INVALID),
        )
    for text in NO_JSON:
        yield RawBody(
            f"number {_short(text)}",
            lambda route, t=text: with_value(route, NUMBER_SLOTS[route], t.encode()),
            frozenset(JSON_ERROR),
        )


def _encoded() -> Iterator[RawBody]:
    """The good body, written otherwise. Readers of JSON know a byte order mark, UTF-16 and UTF-32 for what they are."""
    texts: tuple[tuple[str, Callable[[bytes], bytes], set[int]], ...] = (
        ("UTF-8 with a mark", lambda d: b"\xef\xbb\xbf" + d, FINE),
        ("UTF-16", lambda d: d.decode().encode("utf-16"), FINE),
        ("UTF-16 little endian", lambda d: d.decode().encode("utf-16-le"), FINE),
        ("UTF-16 big endian", lambda d: d.decode().encode("utf-16-be"), FINE),
        ("UTF-32", lambda d: d.decode().encode("utf-32"), FINE),
        ("EBCDIC", lambda d: d.decode().encode("cp037"), JSON_ERROR),
        ("gzip", gzip.compress, JSON_ERROR),
        ("zlib", zlib.compress, JSON_ERROR),
        ("base64", b64encode, JSON_ERROR),
        ("hex", lambda d: d.hex().encode(), JSON_ERROR),
        ("as a form", lambda d: urlencode({"body": d}).encode(), JSON_ERROR),
        ("as a JSON text", lambda d: json.dumps(d.decode()).encode(), INVALID),
        ("in a list", lambda d: b"[" + d + b"]", INVALID),
        ("with a guard in front", lambda d: b")]}'\n" + d, JSON_ERROR),
        ("as a callback", lambda d: b"call(" + d + b");", JSON_ERROR),
        ("a line of two", lambda d: d + b"\n" + d, JSON_ERROR),
        ("a record", lambda d: b"\x1e" + d + b"\n", JSON_ERROR),
        ("with a comma behind", lambda d: d + b",", JSON_ERROR),
        ("with a NUL behind", lambda d: d + b"\x00", JSON_ERROR),
        ("with space around", lambda d: b" \r\n\t" + d + b"\n\n", FINE),
        ("backwards", lambda d: d[::-1], JSON_ERROR),
    )
    for name, change, expected in texts:
        yield RawBody(f"the good body {name}", lambda route, c=change: c(good(route)), frozenset(expected))


def _rearranged() -> Iterator[RawBody]:
    """Keys that come twice, in other cases, with spaces, or that nobody knows. Of two equal keys the last counts."""

    def twice(first: str, last: str) -> Callable[[str], bytes]:
        def make(route: str) -> bytes:
            return good(route)[:-1] + f', "judge": {first}, "judge": {last}}}'.encode()

        return make

    yield RawBody("a key twice, the last is good", twice("7", '"gram_r2"'), frozenset(FINE))
    yield RawBody("a key twice, the last is bad", twice('"gram_r2"', "7"), frozenset(INVALID))
    random = Random(23)
    for number in range(12):
        key = "".join(random.choice("abcXYZ_$. -[]'") for _ in range(random.randint(1, 12)))
        yield RawBody(f"unknown key {number}", _extra(key), frozenset(INVALID))
    for key in ("Judge", "judge ", "__proto__", "constructor", "$where", "judge\\u0000", "@type", "", "\\ud800", "0"):
        yield RawBody(f"unknown key {key!r}", _extra(key), frozenset(INVALID))


def _extra(key: str) -> Callable[[str], bytes]:
    return lambda route: good(route)[:-1] + f', "{key}": 1}}'.encode()


def _short(text: str) -> str:
    return text if len(text) < 40 else f"{text[:12]}.. of {len(text)}"


CORPUS = tuple(bodies())
assert set(TEXT_SLOTS) == set(NUMBER_SLOTS) == set(ROUTES)

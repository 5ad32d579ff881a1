"""Bodies mean what Python's own parser reads in them, whichever parser reads them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidJson
from service.schemas.wire import parse_json


def parsed(parse: Callable[[bytes], Any], sent: bytes) -> str:
    """What came of it, so that NaN, -0.0 and True are told from what they are equal or unequal to."""
    try:
        return repr(parse(sent))
    except (ValueError, RecursionError, InvalidJson):
        return "not JSON"


DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
)
MISSPELT = ("1.", "01", "-", "+1", "1e", ".5", "nan", "-NaN", "[1,]", '{"a":1,}', "{'a':1}", '"\t"', '"\\x41"', "1 2")
UNUSUAL = (
    "NaN",
    "-Infinity",
    "1e999",
    "-0",
    "-0.0",
    "1E+5",
    '"\\ud800"',
    '"\\ude00\\ud83d"',
    '{"a":1,"a":2}',
    " 1\r\n",
)
DEEP = ("[" * 150 + "]" * 150, "[" * 300 + "]" * 300, "[" * 10**6, "1" * 4300, "1" * 4301, "9" * 19, "-" + "9" * 40)


@given(st.data(), DOCUMENTS)
def test_bodies_are_parsed_as_pythons_own_parser_would(data: st.DataObject, value: Any) -> None:
    """The fast parser knows less than Python's - other encodings, lone surrogates, great depth - and never more."""
    sent = bytearray(json.dumps(value, ensure_ascii=data.draw(st.booleans())).encode("utf-8", "surrogatepass"))
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(sent)))
        sent[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    assert parsed(parse_json, bytes(sent)) == parsed(json.loads, bytes(sent))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32-le"])
@pytest.mark.parametrize("text", [*MISSPELT, *UNUSUAL, *DEEP], ids=lambda text: text[:8])
def test_odd_json_is_parsed_as_pythons_own_parser_would(text: str, encoding: str) -> None:
    assert parsed(parse_json, text.encode(encoding)) == parsed(json.loads, text.encode(encoding))

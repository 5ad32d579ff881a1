"""Server-sent events: the same events however the bytes are cut."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gram_client.streams import EventReader, Text
from tests.support.properties import bar
from tests.support.scripted_server import VERDICT

texts = st.lists(st.tuples(st.sampled_from(["ab", "ba"]), st.integers(0, 9), st.text(max_size=20)), max_size=6)


def _event(name: str, data: Any, end: str) -> bytes:
    return f"event: {name}{end}data: {json.dumps(data)}{end}{end}".encode()


@bar(5_000)
@given(texts, st.sampled_from(["\n", "\r\n"]), st.data())
def test_events_do_not_depend_on_where_the_bytes_are_cut(
    written: list[tuple[Any, int, str]], end: str, data: st.DataObject
) -> None:
    stream = b"".join(_event("text", {"order": o, "vote": v, "text": t}, end) for o, v, t in written)
    stream += _event("verdict", VERDICT | {"rationales": []}, end)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    reader, events = EventReader(), []
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        events += list(reader.feed(stream[start:stop]))
    reader.end()
    assert events[:-1] == [Text(*one) for one in written]
    assert events[-1].p_first == VERDICT["p_first"]

"""Family 10: what does not fit is refused with its numbers; nothing is ever cut."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from tests.support.probes.base import Family, Probe, asked, error_of, texts_of
from tests.support.service_defects import silent_truncation
from tests.support.serving import PAIR, Api

FIELDS = ("prompt", "response_a", "response_b")
JUDGES = ("gram", "gram_r2", "rm_r1")
BEYOND = (-1, 0, 1, 500)


async def _limit(api: Api, judge: str) -> int:
    models = (await api.client.get("/models")).json()["judges"]
    return next(int(m["limits"]["max_prompt_tokens"]) for m in models if m["name"] == judge)


async def _exact_at_the_limit(api: Api, judge: str, field: str, beyond: int, letter: str) -> None:
    """Tokens are bytes here, so a text can be made to fit to the token."""
    limit = await _limit(api, judge)
    body = PAIR | {"judge": judge, field: "start end"}
    first = "label" if judge == "gram" else "generate"  # the label read of the others holds what was written as well
    plain = (await asked(api, "/compare", body))[1]
    short = max(len(request.prompt_ids) for request in plain if request.task == first)
    filler = limit + beyond - short
    text = "start " + letter * (filler // len(letter.encode())) + "." * (filler % len(letter.encode())) + "end"
    reply, requests = await asked(api, "/compare", body | {field: text})
    if beyond <= 0:
        assert reply.status_code == 200, reply.text[:300]
        assert all(text in prompt for prompt in texts_of(requests))
        return
    error = error_of(reply)
    assert (reply.status_code, error["code"], requests) == (422, "token_limit", [])
    assert error["details"] == {"tokens": limit + beyond, "limit": limit, "field": field}


async def _only_the_long_one_fails(api: Api, place: int) -> None:
    """In a batch the item that does not fit is marked; the others are judged as if they were alone."""
    items = [PAIR | {"prompt": f"{PAIR['prompt']} {n}"} for n in range(3)]
    alone = [(await asked(api, "/compare", item))[0].json()["p_first"] for item in items]
    items[place] = PAIR | {"response_b": "x" * 40_000}
    rows = (await asked(api, "/compare", {"items": items}))[0].json()["results"]
    for number, row in enumerate(rows):
        assert row["p_first"] == (None if number == place else alone[number])
        assert (row["status"] == "failed") == (number == place)
    assert (rows[place]["error"] or {}).get("code") == "token_limit"


def _probes() -> Iterator[Probe]:
    for judge in JUDGES:
        for field in FIELDS:
            for beyond in BEYOND:
                letter = "\u4f60" if beyond == 1 else "x"
                check = partial(_exact_at_the_limit, judge=judge, field=field, beyond=beyond, letter=letter)
                yield Probe(f"{judge} {field} {beyond:+d}", check)
    for place in range(3):
        yield Probe(f"item {place} of a batch", partial(_only_the_long_one_fails, place=place))


LENGTHS = Family(
    "10",
    "truncation",
    "One token too many is refused, with the numbers and the longest field; up to the limit a prompt is judged whole.",
    tuple(_probes()),
    silent_truncation,
)

"""Families 5, 12 and 15: responses that say nothing, are nothing, or say one thing for ever."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from random import Random
from typing import Any

from service.judging.flags import MASTER_KEYS
from tests.support.probes.base import Family, Probe, asked, error_of, flagged, flags_in
from tests.support.probes.disguises import full_width
from tests.support.service_defects import loops_unseen, no_master_keys, spaces_only_are_empty
from tests.support.serving import Api

SIGNS = (":", ".", ",", "...", "!!!", "\u3002", "\uff1a", "?!", "-", "**", "#", "\u2026", "\U0001f600")
EDGES = ("{}", "{}:", "**{}**", "# {}", " {} \n", '"{}"', "{}...")
QUESTION = "What is 7 + 5?"


def rollout(text: str) -> dict[str, Any]:
    """As OpenRLHF posts one: prompt and response in one text."""
    return {"query": [QUESTION + text], "prompts": [QUESTION], "labels": ["It is 12."]}


async def _flagged_everywhere(api: Api, text: str, code: str) -> None:
    """In a comparison, a score, a ranking and the numbers that a trainer logs."""
    await flagged(api, text, code)
    item = {"prompt": QUESTION, "response": text, "reference": "It is 12."}
    reply, _ = await asked(api, "/score", {"items": [item]})
    assert (code, "response") in flags_in(reply.json()["results"][0]["flags"])
    reply, _ = await asked(api, "/rank", {"prompt": QUESTION, "responses": ["It is 12.", text]})
    found = [(code, "response") in flags_in(row["flags"]) for row in reply.json()["results"]]
    assert found == [False, True]
    reply, _ = await asked(api, "/get_reward", rollout(text))
    assert reply.json()["extra_logs"]["flagged"] == [1.0]


def _empty_words() -> Iterator[Probe]:
    random = Random(5)
    for sign in SIGNS:
        yield Probe(f"sign {sign!r}", partial(flagged, text=sign, code="degenerate_response"))
    for key in sorted(MASTER_KEYS):
        text = random.choice(EDGES).format(random.choice((key, key.title(), key.upper(), full_width(key))))
        yield Probe(f"words {text!r}", partial(_flagged_everywhere, text=text, code="degenerate_response"))


MASTER_WORDS = Family(
    "5",
    "words that fool judges",
    "A response without a word, or with nothing but an opener that is known to fool judges, is flagged.",
    tuple(_empty_words()),
    no_master_keys,
)

EMPTY = ("", " ", "\n\t\n", "\u00a0\u3000", "\u200b", "\u200b\u200d\ufeff", " \u2060 ", "\u00ad", "\u2028\u200e")
FIELDS: tuple[tuple[str, dict[str, Any], tuple[str | int, ...]], ...] = (
    ("/compare", {"prompt": "q", "response_a": "a", "response_b": "b"}, ("response_a",)),
    ("/compare", {"prompt": "q", "response_a": "a", "response_b": "b"}, ("prompt",)),
    ("/compare", {"items": [{"prompt": "q", "response_a": "a", "response_b": "b"}]}, ("items", 0, "response_b")),
    ("/rank", {"prompt": "q", "responses": ["a", "b"]}, ("responses", 1)),
    ("/rationale", {"prompt": "q", "response_a": "a", "response_b": "b"}, ("response_b",)),
    ("/score", {"items": [{"prompt": "q", "response": "a", "reference": "b"}]}, ("items", 0, "response")),
    ("/score", {"items": [{"prompt": "q", "response": "a", "reference": "b"}]}, ("items", 0, "reference")),
    ("/score", {"groups": [{"prompt": "q", "responses": ["a", "b"]}]}, ("groups", 0, "responses", 0)),
    ("/rerank", {"query": "q", "documents": ["a", "b"]}, ("documents", 1)),
)


async def _refused_everywhere(api: Api, text: str) -> None:
    for route, body, path in FIELDS:
        reply, requests = await asked(api, route, replaced(body, path, text))
        assert (error_of(reply)["code"], reply.status_code, requests) == ("invalid_input", 422, []), (route, path)


async def _no_number_for_a_trainer(api: Api, text: str) -> None:
    """These formats cannot do without a number: it is a neutral one and says so."""
    reply, requests = await asked(api, "/get_reward", rollout(text))
    logs = reply.json()["extra_logs"]
    assert (reply.json()["rewards"], logs["ok"], requests) == ([0.5], [0.0], [])
    reply, requests = await asked(
        api, "/remote_rm?reply=object", {"prompt": QUESTION, "response": text, "label": "It is 12."}
    )
    assert (reply.json()["ok"], reply.json()["reward"], requests) == (0.0, 0.5, [])


def replaced(body: Any, path: tuple[str | int, ...], value: Any) -> Any:
    """The body with one value changed."""
    if not path:
        return value
    inside = list(body) if isinstance(body, list) else dict(body)
    inside[path[0]] = replaced(inside[path[0]], path[1:], value)  # type: ignore[index]
    return inside


NOTHING = Family(
    "12",
    "empty texts",
    "A text without a visible character is refused in every field; a trainer's gets a neutral number, marked.",
    tuple(
        probe
        for text in EMPTY
        for probe in (
            Probe(f"{text!r} in every field", partial(_refused_everywhere, text=text)),
            Probe(f"{text!r} from a trainer", partial(_no_number_for_a_trainer, text=text)),
        )
    ),
    spaces_only_are_empty,
)

LOOPS = (
    "!",
    "ha ",
    "the ",
    "I like pizza. ",
    "\u4f60\u597d",
    "A sentence that comes again and again. ",
    "\n- yes",
    "<p></p>",
)
STARTS = ("", "A good start, as a model would write it before it goes astray. ", "Sure! " * 2)


def _loops() -> Iterator[Probe]:
    for loop in LOOPS:
        for start in STARTS:
            text = start + loop * (2400 // len(loop))
            yield Probe(f"{start[:6]!r} then {loop!r}", partial(flagged, text=text.strip(), code="repeated_text"))


async def _seen_in_the_queue(api: Api, loop: str) -> None:
    """What a queue's recent rows are flagged with is there to alarm on."""
    name = f"probe-{loop.strip()}"
    items = [
        {"prompt": QUESTION, "response": text, "reference": "It is 12."}
        for text in (loop * 300, "It is 13, I think.", "It may be 12.", "No idea at all.")
    ]
    reply, _ = await asked(api, "/score", {"items": items, "normalize": {"queue": name, "min_count": 2}})
    assert reply.status_code == 200, reply.text[:300]
    health = (await api.client.get(f"/queues/{name}")).json()["queues"][0]["health"]
    assert health["flagged"]["by_code"]["repeated_text"] == 0.25


DRIFT = Family(
    "15",
    "loops and drift",
    "Text that goes round in circles is flagged, and a queue's health says how often.",
    (*_loops(), *(Probe(f"queue of {loop!r}", partial(_seen_in_the_queue, loop=loop)) for loop in ("ha ", "the "))),
    loops_unseen,
)

"""Family 11: characters that hide, turn round or pile up are counted, and the text is judged as it stands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from random import Random

from tests.support.probes.base import Family, Probe, flagged
from tests.support.probes.empty_words import FIELDS, replaced, rollout
from tests.support.service_defects import blind_to_characters
from tests.support.serving import Api

KINDS: dict[str, str] = {
    "invisible_chars": "\u200b\u00ad\u2060\ufeff\u3164\u115f\u180e\u034f\uffa0\U000e0100\u2062\ufe00",
    "bidi": "\u202e\u202d\u202a\u2066\u2067\u2069\u200f\u200e\u061c",
    "control_chars": "\x00\x01\x08\x0b\x1b\x7f\x80\x9b",
    "tag_chars": "\U000e0041\U000e0061\U000e007e\U000e0001",
}
WORDS = ("It is twelve", "seven and five", "the answer", "na\u00efve", "\u5df4\u9ece", "x = 1")


async def _refused(api: Api, text: str) -> None:
    """Half characters are no text: refused in every field, before anything is asked."""
    for route, body, path in FIELDS:
        if route == "/rerank":
            continue  # mended, as every text of a trainer's format is
        api.engine.requests.clear()
        reply = await api.send(route, json.dumps(replaced(body, path, text)).encode())
        assert (reply.status_code, api.engine.requests) == (422, []), (route, reply.text[:300])


async def _mended_for_a_trainer(api: Api, text: str) -> None:
    """A trainer's run does not end for it: the half becomes U+FFFD, as its tokenizer would write it."""
    api.engine.requests.clear()
    reply = await api.send("/get_reward", json.dumps(rollout(text)).encode())
    assert (reply.status_code, reply.json()["extra_logs"]["ok"]) == (200, [1.0])
    assert len(api.engine.requests) == 2


def _counted() -> Iterator[Probe]:
    random = Random(11)
    for code, characters in KINDS.items():
        for character in characters:
            count = random.randint(1, 4)
            # Tags are invisible, too; both are told.
            text = "".join(f"{random.choice(WORDS)}{character} " for _ in range(count)) + "."
            yield Probe(f"{code} U+{ord(character):04X}", partial(flagged, text=text, code=code, count=count))
    for size in (5, 30, 400):
        text = "It is " + "Z" + "\u0317" * size + "."
        yield Probe(f"{size} marks", partial(flagged, text=text, code="combining_marks", count=1))


HALVES = ("\ud800", "a\ud800b", "\udc00\ud800", "It is 12.\udfff", "\ud83d", "\ude00 yes")

CHARACTERS = Family(
    "11",
    "hidden characters",
    "Invisible, turning, control, tag and piled-up characters are counted and left alone; half characters are refused.",
    (
        *_counted(),
        *(Probe(f"half {half!a}", partial(_refused, text=half)) for half in HALVES),
        *(Probe(f"half {half!a} of a trainer", partial(_mended_for_a_trainer, text=half)) for half in HALVES),
    ),
    blind_to_characters,
)

"""Families 2 and 4: texts that imitate the judge's template, and texts that look like its placeholders."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from random import Random

from service.judging import gram, gram_r2, rm_r1
from tests.support.probes.base import Family, Probe, asked, flagged, texts_of
from tests.support.probes.disguises import DISGUISES
from tests.support.service_defects import chained_replacement, literal_delimiters
from tests.support.serving import Api

FAMILIES = {"gram": gram.FAMILY, "gram_r2": gram_r2.FAMILY, "rm_r1": rm_r1.INSTRUCT}
SHOWN = ("{}", "It is 13.\n\n{}\nI cannot help with that.", "It is 13. {} {}", "x{}x")
DRAWN = 5
"""Disguises a delimiter, drawn from the seed; `tests/service/judging/test_flags.py` tries all of them on all."""


def _spoofs() -> Iterator[Probe]:
    random = Random(2)
    for judge, family in FAMILIES.items():
        for delimiter in family.delimiters:
            for disguise in random.sample(sorted(DISGUISES), DRAWN):
                shown = random.choice(SHOWN)
                text = shown.replace("{}", DISGUISES[disguise](delimiter))
                check = partial(flagged, text=text, code="delimiter_spoof", judge=judge, count=shown.count("{}"))
                yield Probe(f"{judge} {delimiter} {disguise}", check)


DELIMITERS = Family(
    "2",
    "imitated delimiters",
    "Every line of the judge's own template is recognised through case, spacing, look-alikes and invisible characters.",
    tuple(_spoofs()),
    literal_delimiters,
)

MARKS = ("{question}", "{response_a}", "{response_b}", "{conversation_a}", "{conversation_b}")
CODE = (
    "{input}",
    "{}",
    "{0}",
    "{{ 7*7 }}",
    "{% raw %}{{ messages }}",
    "%s %(prompt)s",
    "$x ${response_b}",
    "\\1 \\g<0>",
)
QUESTION, OTHER = "Why is the sky blue, sentinel 8153?", "Because sentinel 2764 scatters."


async def _stays_itself(api: Api, judge: str, mark: str, turns: bool) -> None:
    """The prompt holds the text as it is, and every other text exactly as often as without it."""
    prompt = [{"role": r, "content": t} for r, t in (("user", "Hi."), ("assistant", "Yes?"), ("user", QUESTION))]
    body = {"judge": judge, "prompt": prompt if turns else QUESTION, "response_b": OTHER}
    times = None
    for text in ("It is plain 3141.", f"It is {mark} 3141 {mark}."):
        reply, requests = await asked(api, "/compare", body | {"response_a": text})
        assert reply.status_code == 200, reply.text[:300]
        prompts = texts_of(requests)
        assert all(text in prompt for prompt in prompts)
        seen = sorted((prompt.count(QUESTION), prompt.count(OTHER), prompt.count("3141")) for prompt in prompts)
        assert times in (None, seen)
        times = seen


def _marks() -> Iterator[Probe]:
    for judge in FAMILIES:
        for mark in (*MARKS, *CODE):
            for turns in (False, True):
                check = partial(_stays_itself, judge=judge, mark=mark, turns=turns)
                yield Probe(f"{judge} {mark}{' in a conversation' if turns else ''}", check)


PLACEHOLDERS = Family(
    "4",
    "placeholders",
    "Texts are put into the template in one pass: what looks like a placeholder of it, or like code, stays as it is.",
    tuple(_marks()),
    chained_replacement,
)

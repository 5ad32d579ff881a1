"""Mistakes to plant in the service around the stores: each takes away one defence, as a hurried change would.

`tests/support/defects.py` has those of the stores.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Literal, TypeVar
from unittest import mock

from service import judgment
from service.context import Gate, Service
from service.health import Health
from service.judge import Judge
from service.judging import flags
from service.judging.base import Letter, read_labels
from service.routes import trainers
from service.tokenization import ChatTokenizer, TokenMemo, require_unicode
from service.types import Comparison, Completion, OrderReading, Rendered
from tests.support.serving import options

T = TypeVar("T")
Switch = AbstractContextManager[object]


def split_special_tokens_only() -> Switch:
    """Untrusted text is encoded by the full tokenizer with its special tokens switched off: what is not flagged
    special still becomes a control token."""

    def encode_text(self: ChatTokenizer, text: str) -> tuple[int, ...]:
        require_unicode(text)
        self._full.encode_special_tokens = True
        return tuple(self._full.encode(text, add_special_tokens=False).ids)

    return mock.patch.object(ChatTokenizer, "encode_text", encode_text)


def parse_first_verdict() -> Switch:
    """The first tag anywhere in the text is the verdict, as published readers have it."""

    def first(text: str, tag: re.Pattern[str], blocks: object) -> tuple[Letter, int | None, int]:
        found = tag.search(text)
        if found is None:
            return "invalid", None, 0
        letter: Literal["A", "B"] = "A" if found.group(1) == "A" else "B"
        return letter, found.start(1), 0

    return _everywhere("anchored_verdict", first, "service.judging.gram_r2", "service.judging.rm_r1")


def finish_reason_ignored() -> Switch:
    """A text that was cut off is read as if it had ended."""
    parse = judgment._parse

    def careless(judge: Judge, completion: Completion, ask: judgment.Ask) -> Any:
        return parse(judge, replace(completion, finish_reason="stop"), ask)

    return mock.patch.object(judgment, "_parse", careless)


def swap_skipped() -> Switch:
    """Both orders show the responses the same way round."""

    def renderings(judge: Judge, pair: Comparison) -> tuple[Rendered, Rendered]:
        shown = judgment.pairwise(judge).render(pair)
        return shown, shown

    return mock.patch.object(judgment, "_renderings", renderings)


@contextmanager
def health_always_true() -> Iterator[None]:
    """The probes say yes, whatever has become of the engine."""

    async def fine(self: Health) -> None:
        return None

    with mock.patch.object(Health, "check_ready", fine), mock.patch.object(Health, "check_alive", fine):
        yield


def no_abort_on_disconnect() -> Switch:
    """Work goes on for a caller who has hung up."""

    async def deaf(caller: Any, work: Awaitable[T]) -> T:
        return await work

    return mock.patch("service.routes.base.unless_gone", deaf)


def literal_delimiters() -> Switch:
    """Delimiters and claims are looked for as they are spelled, not as a reader sees them."""
    return mock.patch.object(flags, "_plain", str.lower)


def chained_replacement() -> Switch:
    """Placeholders are filled one after the other, so that a text may hold one."""

    def fill(template: str, values: Mapping[str, str]) -> tuple[str, ...]:
        for name, value in values.items():
            template = template.replace(f"{{{name}}}", value)
        return (template,)

    return _everywhere("fill", fill, "service.judging.gram", "service.judging.gram_r2", "service.judging.rm_r1")


def no_master_keys() -> Switch:
    """Any word is an answer."""
    return mock.patch.object(flags, "_is_degenerate", return_value=False)


def texts_tidied() -> Switch:
    """Runs of white space are made one on the way to the judge."""
    render = judgment._renderings

    def tidied(judge: Judge, pair: Comparison) -> tuple[Rendered, Rendered]:
        def tidy(response: Any) -> Any:
            return replace(response, text=" ".join(response.text.split()))

        return render(judge, replace(pair, first=tidy(pair.first), second=tidy(pair.second)))

    return mock.patch.object(judgment, "_renderings", tidied)


def silent_truncation() -> Switch:
    """What does not fit is cut off at the front, as an engine's ``truncate_prompt_tokens`` does."""
    encode, most = ChatTokenizer.encode, options().max_model_len - 1

    def cut(self: ChatTokenizer, rendered: Rendered, memo: TokenMemo | None = None) -> tuple[int, ...]:
        return encode(self, rendered, memo)[-most:]

    return mock.patch.object(ChatTokenizer, "encode", cut)


def blind_to_characters() -> Switch:
    """Nobody looks at single characters."""
    return mock.patch.object(flags, "_character_counts", return_value=())


def spaces_only_are_empty() -> Switch:
    """Only white space counts as empty, so that a zero-width space is an answer."""
    return mock.patch("service.schemas.requests.unicodedata", SimpleNamespace(category=lambda char: "Lo"))


def ties_by_appearance() -> Switch:
    """Responses that look alike are a tie without being judged."""

    def alike(self: judgment.Prepared) -> bool:
        first, second = self.comparison.first.text, self.comparison.second.text
        return flags._letters_of(first) == flags._letters_of(second)

    return mock.patch.object(judgment.Prepared, "is_identical", property(alike))


def any_label_mass() -> Switch:
    """A judge that hardly speaks of the letters is believed."""

    def believing(judge: Judge, completion: Completion) -> OrderReading:
        return read_labels(completion.label_logprobs)

    return mock.patch.object(judgment, "_read_label", believing)


def loops_unseen() -> Switch:
    """Text that goes round in circles is not noticed."""
    return mock.patch.object(flags, "_repeats", return_value=0)


def one_salt_for_all() -> Switch:
    """Every caller reads the same prefix cache."""
    return mock.patch("service.auth._salt", return_value="shared")


def model_names_an_adapter() -> Switch:
    """The ``model`` of a trainer's request goes to the engine."""
    known = trainers.judge_for

    def trusting(service: Service, gate: Gate, model: str = "") -> Judge:
        judge = known(service, gate, model)
        return replace(judge, adapter=model or None)

    return _everywhere("judge_for", trusting, "service.routes.trainers", "service.routes.rerank")


def _everywhere(name: str, value: Callable[..., Any], *modules: str) -> Switch:
    """The same change in each module that imported the name."""
    stack = ExitStack()
    for module in modules:
        stack.enter_context(mock.patch(f"{module}.{name}", value))
    return stack

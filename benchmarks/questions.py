"""The pairs everybody is asked about, and how the judge's own prompt for them looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from service.judging.base import require_pairwise
from service.judging.registry import get_family
from service.manifest import Manifest
from service.settings import demo_model
from service.tokenization import ChatTokenizer
from service.types import Comparison, Prompt, Rendered, Response
from training.data.demo_tasks import DemoPair
from training.evaluation.demo import heldout_pairs

ChatMessages = list[dict[str, str]]


def draw_pairs(n: int, seed: int) -> list[DemoPair]:
    """``n`` held-out demo pairs; another seed gives other pairs."""
    return heldout_pairs(n, seed)


def as_items(pairs: Sequence[DemoPair]) -> list[dict[str, Any]]:
    """Items for /compare. Which side is right alternates, so that a judge which always says "a" scores 0.5."""
    items = []
    for i, pair in enumerate(pairs):
        a, b = (pair.right, pair.wrong) if i % 2 == 0 else (pair.wrong, pair.right)
        items.append({"prompt": pair.prompt, "response_a": a, "response_b": b})
    return items


@dataclass(frozen=True)
class LabelJudge:
    """The checkpoint's label judge without an engine: its prompts as chat messages and as token ids."""

    model: str
    tokenizer: ChatTokenizer
    family_name: str
    template: str
    label_ids: tuple[int, int]
    labels: tuple[str, str]

    @classmethod
    def load(cls, model: str | None) -> LabelJudge:
        """The first label judge of ``judge.json``, or GRAM where the checkpoint names none."""
        path = model or demo_model()
        manifest = Manifest.load(path)
        entries = [(j.family, j.template) for j in manifest.judges] if manifest else [("gram", "eval")]
        name, template = next(e for e in entries if get_family(*e).reads == "label")
        family, tokenizer = require_pairwise(get_family(name, template)), ChatTokenizer.load(path)
        shape = family.render(Comparison(Prompt.from_text("q"), Response("a"), Response("b")))
        ids = tokenizer.label_ids(shape, family.verdict_opener, family.labels)
        return cls(path, tokenizer, name, template, ids, family.labels)

    def render(self, item: dict[str, Any]) -> tuple[Rendered, Rendered]:
        """Both display orders of an item."""
        family = require_pairwise(get_family(self.family_name, self.template))
        prompt = Prompt.from_text(item["prompt"])
        comparison = Comparison(prompt, Response(item["response_a"]), Response(item["response_b"]))
        return family.render(comparison), family.render(comparison.swap())

    def prompt_ids(self, items: Sequence[dict[str, Any]]) -> list[tuple[int, ...]]:
        """Token ids, two prompts an item, its orders side by side."""
        return [self.tokenizer.encode(rendered) for item in items for rendered in self.render(item)]

    def chats(self, items: Sequence[dict[str, Any]]) -> list[ChatMessages]:
        """Chat messages, two an item, its orders side by side."""
        rendered = [one for item in items for one in self.render(item)]
        return [[{"role": m.role, "content": m.content} for m in one.messages] for one in rendered]

"""Discriminative reward models: a sequence-classification head over the whole conversation, one number a response."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from service.types import Message, Prompt, Rendered, Response


@dataclass(frozen=True, slots=True)
class Scalar:
    name: str = "scalar"
    template: str = "chat"
    reads: Literal["scalar"] = "scalar"
    delimiters: tuple[str, ...] = ()

    @property
    def template_text(self) -> str:
        return ""

    def render_one(self, prompt: Prompt, response: Response) -> Rendered:
        return Rendered((*prompt.messages, Message("assistant", response.text)), generation_prompt=False)


FAMILY = Scalar()

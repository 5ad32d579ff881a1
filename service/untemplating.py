"""From what a trainer sends back to what a judge reads: chat templates undone, control tokens stripped.

Some trainers send texts as their policy saw them: the whole conversation as one string, with the markers of its chat
template, decoded with the special tokens. A judge wants the question and the answer. Nothing here knows the policy's
tokenizer; a template is told by the marker that opens its turns, and the same marker tells where they end.

What cannot be told apart is left alone rather than guessed: a text without a known marker is one user turn, only the
markers of the template that the prompt is written in are taken off a response's end, and nothing inside a response is
changed. A prompt that was cut at its left side, as trainers do with long ones, is found by its end.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from service.errors import InvalidInput
from service.types import Message, Prompt

ROLES = {
    "assistant": "assistant",
    "developer": "system",
    "environment": "tool",
    "function": "tool",
    "human": "user",
    "ipython": "tool",
    "model": "assistant",
    "observation": "tool",
    "system": "system",
    "tool": "tool",
    "user": "user",
}
"""The words templates use for their roles, and ours."""

BEGINS = ("<|begin_of_text|>", "<\uff5cbegin\u2581of\u2581sentence\uff5c>", "<|startoftext|>", "<bos>", "<s>")
"""What stands before a conversation."""
PADS = ("<|endoftext|>", "<|end_of_text|>", "<|pad|>", "<pad>", "[PAD]", "<|finetune_right_pad_id|>")
"""What stands behind one, whatever its template."""
ADDED_SYSTEM = frozenset(
    {
        "",
        "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
        "You are a helpful assistant.",
    }
)
"""System messages that templates write where the user wrote none (Qwen2, Qwen2.5): said to the policy by nobody."""
_DATED = re.compile(r"Cutting Knowledge Date: [^\n]{1,40}\nToday Date: [^\n]{1,40}(?:\n\n|\Z)")
"""What Llama 3.1's template puts before every system message, and alone where there is none."""
_ANCHOR, _LEAST = 64, 8
"""Characters by which a cut prompt's place is looked for, and how many of its end must be there at least."""
_CUT = "\ufffd"


@dataclass(frozen=True, slots=True)
class Dialect:
    """One way to write turns: each begins with ``header``, whose group is the role's word, and ends with one of
    ``ends`` or where the next begins. ``lead`` is the role of text before the first header; ``trims`` where the
    template puts white space of its own around contents."""

    name: str
    header: re.Pattern[str]
    ends: tuple[str, ...]
    lead: str = ""
    trims: bool = False


DIALECTS = (
    Dialect("phi-4", re.compile(r"<\|im_start\|>(\w+)<\|im_sep\|>"), ("<|im_end|>",)),
    Dialect("chatml", re.compile(r"<\|im_start\|>(\w+)\n"), ("<|im_end|>",)),
    Dialect("llama-3", re.compile(r"<\|start_header_id\|>(\w+)<\|end_header_id\|>\n\n"), ("<|eot_id|>", "<|eom_id|>")),
    Dialect("gemma", re.compile(r"<start_of_turn>(\w+)\n"), ("<end_of_turn>", "<eos>")),
    Dialect(
        "deepseek",
        re.compile(r"<\uff5c(User|Assistant)\uff5c>"),
        ("<\uff5cend\u2581of\u2581sentence\uff5c>",),
        lead="system",
    ),
    Dialect("mistral", re.compile(r"\[(INST|/INST|SYSTEM_PROMPT|/SYSTEM_PROMPT)\]"), ("</s>",), trims=True),
    Dialect(
        "zephyr", re.compile(r"<\|(system|user|assistant|tool|observation)\|>\n?"), ("</s>", "<|end|>"), trims=True
    ),
)
"""ChatML is Qwen's and the demo judge's, Mistral's is Llama 2's too, Zephyr's is TinyLlama's, Phi-3's and GLM's."""
_MISTRAL = {"INST": "user", "/INST": "assistant", "SYSTEM_PROMPT": "system"}
_LLAMA_2_SYSTEM = re.compile(r"<<SYS>>\n(.*?)\n<</SYS>>\n\n", re.DOTALL)


def dialect_of(text: str) -> Dialect | None:
    """The template that a text is written in; None: no known one, or none at all. The first marker decides."""
    found = [(match.start(), number) for number, d in enumerate(DIALECTS) if (match := d.header.search(text))]
    return DIALECTS[min(found)[1]] if found else None


def split(query: str, prompt: str) -> str:
    """The response in ``query``: what follows the prompt. Raises `InvalidInput` where the prompt's end is not there.

    The prompt may have lost its beginning, may begin with control tokens that the other lacks, and may differ in white
    space, as some tokenizers write it back.
    """
    begun = (_begun(query), _begun(prompt))
    ways = ((_after, query, prompt), (_after, *begun), (_after_spaced, *begun))
    found = next((rest for after, text, before in ways if (rest := after(text, before)) is not None), None)
    if found is None:
        raise InvalidInput("The query does not begin with the end of its prompt; send both as they were generated.")
    return found


def split_alone(query: str, more: tuple[str, ...] = ()) -> tuple[Prompt, str]:
    """Prompt and response of a whole conversation: the last assistant turn answers the turns before it.

    Raises `InvalidInput` for a text without a known template, or without both.
    """
    dialect = dialect_of(query)
    turns = _turns(_begun(query), dialect) if dialect else []
    if len(turns) < 2 or turns[-1].role != "assistant":
        raise InvalidInput("The text is no conversation that ends with an answer; send the prompt beside it.")
    return _prompt(turns[:-1]), plain_response(turns[-1].content, dialect, more)


def plain_prompt(text: str) -> Prompt:
    """The conversation in a templated prompt, without the header of the answer to come; else one user turn.

    A system message that its template added by itself is left out (`ADDED_SYSTEM`).
    """
    dialect = dialect_of(text)
    if dialect is None:
        return Prompt.from_text(without_ends(_begun(text), PADS))
    turns = _turns(_begun(text), dialect)
    if turns and turns[-1].role == "assistant":  # the answer's header, and what the template begins it with
        turns = turns[:-1]
    return _prompt(turns)


def plain_response(text: str, dialect: Dialect | None, more: tuple[str, ...] = ()) -> str:
    """The response without the control tokens that ended it: the template's, a pad, or one of ``more``.

    A response to a prompt without a known template may end with any template's.
    """
    known = dialect.ends if dialect else tuple(end for one in DIALECTS for end in one.ends)
    bare = without_ends(text, known + PADS + more)
    return bare.strip() if dialect and dialect.trims else bare


def without_ends(text: str, ends: tuple[str, ...]) -> str:
    """Without the ``ends`` at its end, however many, and the white space behind them; linear in the text."""
    keep = stop = len(text)
    while True:
        while stop and text[stop - 1].isspace():
            stop -= 1
        marker = next((end for end in ends if text.endswith(end, 0, stop)), None)
        if marker is None:
            return text[:keep]
        keep = stop = stop - len(marker)


def _begun(text: str) -> str:
    """Without what stands before the first word: begin tokens, and the rest of a character that was cut."""
    while True:
        bare = text.lstrip(_CUT)
        begin = next((begin for begin in BEGINS if bare.startswith(begin)), "")
        if not begin and bare is text:
            return text
        text = bare[len(begin) :]


def _after(query: str, prompt: str) -> str | None:
    """What follows the longest end of ``prompt`` that ``query`` begins with; None: there is none."""
    if query.startswith(prompt):
        return query[len(prompt) :]
    anchor = query[: min(_ANCHOR, len(prompt))]
    at = prompt.find(anchor) if anchor else -1
    while at >= 0:
        if query.startswith(prompt[at:]):
            return query[len(prompt) - at :]
        at = prompt.find(anchor, at + 1)
    lengths = range(min(_ANCHOR, len(prompt), len(query)), _LEAST - 1, -1)
    return next((query[n:] for n in lengths if query.startswith(prompt[-n:])), None)


def _after_spaced(query: str, prompt: str) -> str | None:
    """As `_after` where white space differs: without it, and then found again in the query as it stands."""
    dense, wanted = "".join(query.split()), "".join(prompt.split())
    rest = _after(dense, wanted)
    if rest is None or not wanted:
        return None
    left, position = len(dense) - len(rest), 0
    while left:
        left -= not query[position].isspace()
        position += 1
    return query[position:].removeprefix(prompt[len(prompt.rstrip()) :])


def _turns(text: str, dialect: Dialect) -> list[Message]:
    """All turns, the last one up to the end of the text."""
    headers = list(dialect.header.finditer(text))
    lead = text[: headers[0].start()].strip()
    turns = [Message(dialect.lead, lead)] if dialect.lead and lead else []
    for header, after in zip(headers, [*headers[1:], None], strict=True):
        content = text[header.end() : after.start() if after else len(text)]
        role = _role(header.group(1), dialect)
        if role:
            content = content.partition(_first_end(content, dialect))[0] if after else _open(content, dialect)
            turns.append(Message(role, content.strip() if dialect.trims else content))
    return turns


def _open(content: str, dialect: Dialect) -> str:
    """The last turn's content: markers at its end go, markers inside it are its own."""
    return without_ends(content, dialect.ends + PADS)


def _first_end(content: str, dialect: Dialect) -> str:
    """The end marker that comes first; without one, something that is not there."""
    places = {content.find(end): end for end in dialect.ends if end in content}
    return places[min(places)] if places else "\0\0"


def _role(word: str, dialect: Dialect) -> str:
    """Our word for a role; "" for headers that open no turn. Raises `InvalidInput` for roles nobody knows."""
    if dialect.name == "mistral":
        return _MISTRAL.get(word, "")
    role = ROLES.get(word.lower())
    if role is None:
        raise InvalidInput("The conversation has a role that is not known; send system, user, assistant or tool.")
    return role


def _prompt(turns: list[Message]) -> Prompt:
    """Turns as a prompt: system words that a template added, or hid in the first user turn, put right."""
    if turns and turns[0].role == "user" and (hidden := _LLAMA_2_SYSTEM.match(turns[0].content)):
        rest = Message("user", turns[0].content[hidden.end() :])
        turns = [Message("system", hidden.group(1)), rest, *turns[1:]]
    if turns and turns[0].role == "system":
        dated = _DATED.match(turns[0].content)
        system = turns[0].content[dated.end() if dated else 0 :]
        turns = turns[1:] if system.strip() in ADDED_SYSTEM else [Message("system", system), *turns[1:]]
    if not turns:
        raise InvalidInput("The prompt holds no turn to be answered; send at least one.")
    return Prompt(tuple(turns))

"""Untrusted text to token ids, so that control tokens can come only from the chat template.

The usual road (`apply_chat_template`, an engine's own chat call) turns a typed ``<|im_end|>`` into the control token,
and ``split_special_tokens`` neither covers added tokens that are not flagged special nor is safe between threads. Here
the template is rendered once per shape of conversation with random marks in place of the contents; the result is cut at
the control tokens, and the contents are put between the cuts and encoded by a tokenizer object that knows no control
token at all. User text never passes through the template, and a whole piece (template text + contents) is encoded at
once, so the ids equal the usual road's on benign text: byte-pair merges at the edges included. `self_test`
checks that. Known limits: fast tokenizers only; tokenizers that put a dummy space before every piece fail the test.
"""

from __future__ import annotations

import json
import random
import re
import secrets
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

from jinja2 import TemplateError
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from service.errors import ControlTokenViolation, InvalidInput, StartupError
from service.segments import SPACES, Slot, TextPiece, find_cuts
from service.types import Message, Rendered

ROLES = frozenset({"system", "user", "assistant", "tool"})
"""Roles are template text, so only known words are let in."""

TokenMemo = dict[str, tuple[int, ...]]
"""Ids of texts that were already encoded in this batch."""

_SHAPES_KEPT = 512
_INVISIBLE = re.compile("[\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\U000e0000-\U000e007f]")
# Content edges which tell apart the ways templates trim: not at all, line feeds only, all white space.
_LEFT_EDGE, _RIGHT_EDGE = "\n\t\n", "\n \n"
_LEFT_TRIMS = {_LEFT_EDGE: "", "\t\n": "\n", "": None}
_RIGHT_TRIMS = {_RIGHT_EDGE: "", "\n ": "\n", "": None}


@dataclass(frozen=True, slots=True)
class _Skeleton:
    """A rendered template without contents: runs of finished ids, and texts still to be filled and encoded."""

    pieces: tuple[tuple[int, ...] | TextPiece, ...]
    control: tuple[int, ...]
    tail: str
    """Template text after the last control token: what a reply is appended to."""


@dataclass(frozen=True, slots=True)
class _AddedToken:
    id: int
    content: str
    lstrip: bool
    rstrip: bool


class ChatTokenizer:
    """A checkpoint's tokenizer and chat template for untrusted text. Immutable after loading; safe between threads."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, name: str = "the tokenizer") -> None:
        """Raises `StartupError` for slow tokenizers, tokenizers without a chat template and leaking vocabularies."""
        if not tokenizer.is_fast:
            raise StartupError(f"{name} is not a fast tokenizer; save the checkpoint with a tokenizer.json.")
        self._name = name
        self._tokenizer = tokenizer
        self.chat_template: str = _chat_template(tokenizer, name)
        spec: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
        plain = {"post_processor": None, "truncation": None, "padding": None}
        layout = [token for token in spec["added_tokens"] if _is_layout(token)]
        control = [token for token in spec["added_tokens"] if token["content"] and token not in layout]
        self._added = {t["content"]: _AddedToken(t["id"], t["content"], t["lstrip"], t["rstrip"]) for t in control}
        self.control_ids = frozenset(token.id for token in self._added.values())
        self.eos_id: int | None = tokenizer.eos_token_id
        # Two objects of our own: nobody else can change their settings while a request is being encoded.
        self._full = Tokenizer.from_str(json.dumps({**spec, **plain}))
        self._stripped = Tokenizer.from_str(json.dumps({**spec, **plain, **_only(layout, spec["model"])}))
        longest_first = sorted(self._added, key=len, reverse=True)
        self._control_text = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._skeleton = lru_cache(maxsize=_SHAPES_KEPT)(self._build_skeleton)
        self._fixed = lru_cache(maxsize=_SHAPES_KEPT)(self.encode_text)
        self._cuts = lru_cache(maxsize=_SHAPES_KEPT)(self._find_cuts)
        leaks = [text for text in longest_first if not self.control_ids.isdisjoint(self.encode_text(text))]
        moved = [t["content"] for t in layout if self._stripped.token_to_id(t["content"]) != t["id"]]
        if leaks or moved:
            raise StartupError(
                f"{name} cannot tell {(leaks + moved)[0]!r} as text from the token; use another checkpoint."
            )

    @classmethod
    def load(cls, path: str, *, revision: str | None = None, trust_remote_code: bool = False) -> Self:
        """From a checkpoint directory or hub id, whose code is run only when it is trusted. Raises `StartupError`."""
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                path, revision=revision, use_fast=True, trust_remote_code=trust_remote_code
            )
        except Exception as error:  # the libraries below raise anything, plain Exception included, for a broken file
            reason = str(error).strip().partition("\n")[0]
            raise StartupError(
                f"Cannot load a tokenizer from {path!r}; check the path and tokenizer.json ({reason})."
            ) from error
        return cls(tokenizer, f"The tokenizer of {path!r}")

    def encode(self, rendered: Rendered, memo: TokenMemo | None = None) -> tuple[int, ...]:
        """Prompt ids of a chat. Chats that share texts (both orders of a pair, the pairs of a group) share a ``memo``.

        Raises `InvalidInput` (lone surrogate, unknown role, a sequence of roles the template refuses) and
        `ControlTokenViolation` when the control tokens are not exactly the template's: checked on every call.
        """
        skeleton = self._skeleton_of(rendered)
        memo = {} if memo is None else memo
        ids: list[int] = []
        for piece in skeleton.pieces:
            ids.extend(self._encode_piece(piece, rendered.messages, memo) if isinstance(piece, TextPiece) else piece)
        if tuple(i for i in ids if i in self.control_ids) != skeleton.control:
            raise ControlTokenViolation(
                "The text would have changed the control tokens of the prompt; it was not judged."
            )
        return tuple(ids)

    def encode_text(self, text: str) -> tuple[int, ...]:
        """Ids of plain text: whatever it says, none is a control token. Raises `InvalidInput` for lone surrogates."""
        require_unicode(text)
        return tuple(self._stripped.encode(text, add_special_tokens=False).ids)

    def encode_own(self, text: str) -> tuple[int, ...]:
        """Ids of words that are the project's own, never a caller's: control tokens spelled in them are meant."""
        ids: list[int] = []
        end = 0
        for match in self._control_text.finditer(text):
            ids += [*self.encode_text(text[end : match.start()]), self._added[match.group()].id]
            end = match.end()
        return (*ids, *self.encode_text(text[end:]))

    def _encode_piece(self, piece: TextPiece, messages: Sequence[Message], memo: TokenMemo) -> list[int]:
        ids: list[int] = []
        for text, fixed in piece.segments(messages, self._cuts):
            if not fixed and text not in memo:
                memo[text] = self.encode_text(text)
            ids.extend(self._fixed(text) if fixed else memo[text])
        return ids

    def _find_cuts(self, text: str) -> tuple[int, int] | None:
        """Where a template's text may be encoded apart from what surrounds it (see `find_cuts`)."""
        splitter = self._stripped.pre_tokenizer
        if splitter is None:
            return None
        return find_cuts(text, self.encode_text, lambda t: {end for _, (_, end) in splitter.pre_tokenize_str(t)})

    def decode(self, ids: Iterable[int]) -> str:
        """Text of generated ids, special tokens left out."""
        return self._full.decode(list(ids), skip_special_tokens=True)

    def count(self, text: str) -> int:
        """Length of a text in tokens, on its own."""
        return len(self.encode_text(text))

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Where each token of `encode_text(text)` stands in the text: first character, and one past the last.

        Tokens that hold parts of one character share its span. For cutting a text at a number of tokens.
        """
        require_unicode(text)
        return list(self._stripped.encode(text, add_special_tokens=False).offsets)

    def control_text_count(self, text: str) -> int:
        """How many control tokens are spelled out in a text, full-width and invisibly broken spellings included."""
        count = len(self._control_text.findall(text))
        if text.isascii():
            return count
        plain = unicodedata.normalize("NFKC", _INVISIBLE.sub("", text))
        return max(count, len(self._control_text.findall(plain)))

    def label_ids(self, context: Rendered | None, opener: str, labels: tuple[str, str]) -> tuple[int, int]:
        """The single token each label is, right after ``opener`` at the end of ``context``.

        Raises `StartupError` naming the label when it is not exactly one new token there, or both are the same.
        """
        before = (self._skeleton_of(context).tail if context else "") + opener
        first, second = (self._label_id(before, label) for label in labels)
        if first == second:
            raise StartupError(f"{self._name} has one token for both labels {labels}; choose other labels.")
        return first, second

    def prefix_to(self, token_ids: Sequence[int], chars: int) -> tuple[int, ...] | None:
        """The longest token prefix that reads exactly like the first ``chars`` characters of ``decode(token_ids)``.

        None when the cut falls inside a token. Used to ask for a probability in the middle of a generated text.
        """
        wanted = self.decode(token_ids)[:chars]
        low, high = 0, len(token_ids)
        while low < high:
            middle = (low + high + 1) // 2
            if len(self.decode(token_ids[:middle])) <= chars:
                low = middle
            else:
                high = middle - 1
        return tuple(token_ids[:low]) if self.decode(token_ids[:low]) == wanted else None

    def self_test(self, samples: int = 1000, shape: Rendered | None = None) -> None:
        """Benign texts must get the ids `apply_chat_template` gives them, in the conversation shape a judge uses.

        ``shape`` gives roles and switches, its contents are replaced; one user turn when absent. Raises `StartupError`
        at the first difference: the judge would be asked in other tokens than it was trained on.
        """
        shape = shape or Rendered((Message("user", ""),))
        texts = benign_texts(random.Random(0))
        try:
            self._skeleton_of(shape)
        except InvalidInput as error:
            raise StartupError(f"{self._name} cannot carry this judge's prompts: {error.message}") from error
        for number in range(samples):
            messages = tuple(Message(m.role, self._benign(texts)) for m in shape.messages)
            rendered = Rendered(messages, shape.generation_prompt, shape.enable_thinking)
            if self.encode(rendered) != self._usual_ids(rendered):
                raise StartupError(
                    f"{self._name} encodes benign text otherwise than its chat template does (sample {number}); "
                    "use a tokenizer whose template leaves the content alone, or allow the difference explicitly."
                )

    def _benign(self, texts: Iterable[str]) -> str:
        return next(text for text in texts if not self._control_text.search(text))

    def _usual_ids(self, rendered: Rendered) -> tuple[int, ...]:
        ids = self._template(rendered.messages, rendered.generation_prompt, rendered.enable_thinking, tokenize=True)
        return tuple(ids)

    def _label_id(self, before: str, label: str) -> int:
        base, full = self.encode_text(before), self.encode_text(before + label)
        if full[:-1] != base or not label:
            raise StartupError(
                f"{self._name} does not write the label {label!r} as a single token; choose other labels."
            )
        return full[-1]

    def _skeleton_of(self, rendered: Rendered) -> _Skeleton:
        roles = tuple(message.role for message in rendered.messages)
        if not roles or not ROLES.issuperset(roles):
            raise InvalidInput(f"A conversation needs messages with roles among {', '.join(sorted(ROLES))}.")
        return self._skeleton(roles, rendered.generation_prompt, rendered.enable_thinking)

    def _template(
        self, messages: Sequence[Message], generation_prompt: bool, enable_thinking: bool | None, *, tokenize: bool
    ) -> Any:
        """`apply_chat_template`, text or ids. Raises `InvalidInput` when the template refuses the roles."""
        switches: dict[str, Any] = {} if enable_thinking is None else {"enable_thinking": enable_thinking}
        chat = [{"role": m.role, "content": m.content} for m in messages]
        try:
            return self._tokenizer.apply_chat_template(
                chat, tokenize=tokenize, add_generation_prompt=generation_prompt, return_dict=False, **switches
            )
        except TemplateError as error:
            raise InvalidInput("The judge's chat template refuses this sequence of message roles.") from error

    def _build_skeleton(
        self, roles: tuple[str, ...], generation_prompt: bool, enable_thinking: bool | None
    ) -> _Skeleton:
        """Render with marks for contents, cut at control tokens, encode what holds no content."""
        marks = [secrets.token_hex(16) for _ in roles]
        gaps, order = self._gaps(marks, roles, marks, generation_prompt, enable_thinking)
        edged = [_LEFT_EDGE + mark + _RIGHT_EDGE for mark in marks]
        edged_gaps, _ = self._gaps(edged, roles, marks, generation_prompt, enable_thinking)
        slots = _slots(order, gaps, edged_gaps)
        cuts: list[list[str | Slot]] = [[]]
        controls: list[_AddedToken] = []
        for position, gap in enumerate(gaps):
            end = 0
            for match in self._control_text.finditer(gap):
                cuts[-1].append(gap[end : match.start()])
                controls.append(self._added[match.group()])
                cuts.append([])
                end = match.end()
            cuts[-1].append(gap[end:])
            cuts[-1].extend(slots[position : position + 1])
        return self._assemble(cuts, controls)

    def _gaps(
        self,
        contents: Sequence[str],
        roles: Sequence[str],
        marks: Sequence[str],
        generation_prompt: bool,
        enable_thinking: bool | None,
    ) -> tuple[list[str], list[int]]:
        """Template texts around the contents, one more than there are, and each content's message index."""
        messages = [Message(role, content) for role, content in zip(roles, contents, strict=True)]
        text = self._template(messages, generation_prompt, enable_thinking, tokenize=False)
        parts = re.split(f"({'|'.join(marks)})", text)
        order = [marks.index(mark) for mark in parts[1::2]]
        if sorted(order) != list(range(len(marks))):
            raise InvalidInput("The judge's chat template drops, repeats or rewrites messages of these roles.")
        return parts[::2], order

    def _assemble(self, cuts: Sequence[Sequence[str | Slot]], controls: Sequence[_AddedToken]) -> _Skeleton:
        pieces: list[tuple[int, ...] | TextPiece] = []
        for position, parts in enumerate(cuts):
            before = controls[position - 1] if position else None
            after = controls[position] if position < len(controls) else None
            text = TextPiece(tuple(parts), bool(before and before.rstrip), bool(after and after.lstrip))
            has_content = any(isinstance(part, Slot) for part in parts)
            pieces.append(text if has_content else self.encode_text(text.fill(())))
            if after:
                pieces.append((after.id,))
        tail = "".join(part for part in cuts[-1] if isinstance(part, str))
        return _Skeleton(tuple(pieces), tuple(token.id for token in controls), tail)


def require_unicode(text: str) -> None:
    """Raises `InvalidInput` for text with lone surrogates, which no tokenizer and no JSON reply can carry."""
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InvalidInput("The text holds a lone surrogate; send valid Unicode.") from error


def _chat_template(tokenizer: PreTrainedTokenizerBase, name: str) -> str:
    try:
        return str(tokenizer.get_chat_template())
    except ValueError as error:
        raise StartupError(f"{name} has no chat template; add chat_template.jinja to the checkpoint.") from error


def _is_layout(token: Mapping[str, Any]) -> bool:
    """Some vocabularies add runs of white space as tokens: ordinary text, which must stay so (Gemma, GPT-NeoX)."""
    return not token["special"] and bool(token["content"]) and not token["content"].strip(SPACES + "\u2581")


def _only(layout: Sequence[Mapping[str, Any]], model: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a tokenizer file that keep just these added tokens. In the vocabulary they keep their ids, too."""
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        vocabulary = {token["content"]: token["id"] for token in layout} | vocabulary
    return {"added_tokens": layout, "model": {**model, "vocab": vocabulary}}


def _slots(order: Sequence[int], gaps: Sequence[str], edged_gaps: Sequence[str]) -> list[Slot]:
    """How each content is trimmed, from the two renderings: an edged gap is right edge + gap + left edge, as trimmed.

    A transform that fits none of the known ones is left out here and found by the self-test.
    """
    lefts: list[str | None] = []
    rights: list[str | None] = []
    for position, (gap, edged) in enumerate(zip(gaps, edged_gaps, strict=True)):
        right_edges = _RIGHT_TRIMS if position else {"": ""}
        left_edges = _LEFT_TRIMS if position < len(order) else {"": ""}
        fits = ((r, left) for r in right_edges for left in left_edges if r + gap + left == edged)
        right, left = next(fits, (next(iter(right_edges)), next(iter(left_edges))))
        rights.append(right_edges[right])
        lefts.append(left_edges[left])
    return [Slot(index, lefts[i], rights[i + 1]) for i, index in enumerate(order)]


_WORDS = (
    "the answer is 42 because of gravity",
    "don't we'll I'VE it's",
    "r\u00e9sum\u00e9 na\u00efve stra\u00dfe \u0130stanbul",
    "e\u0301 a\u0308 decomposed",
    "\u039a\u03b1\u03bb\u03b7\u03bc\u03ad\u03c1\u03b1 \u043f\u0440\u0438\u0432\u0435\u0442 \u043c\u0438\u0440",
    "\u4f60\u597d\uff0c\u4e16\u754c\u3002 \u3053\u3093\u306b\u3061\u306f \u30ab\u30bf\u30ab\u30ca \ud55c\uad6d\uc5b4",
    "\u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd \u0928\u092e\u0938\u094d\u0924\u0947 \u0e2a\u0e27\u0e31",
    "\U0001f600 \U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1eb\U0001f1f7 \u2764\ufe0f",
    "def f(x):\n    return {k: v for k, v in x.items()}\n",
    "for (int i = 0; i < n; ++i) { a[i] <<= 2; }",
    '<p class="x">a &amp; b</p> {{ x }} {% y %} {response_a}',
    "$\\frac{a}{b}$ \\boxed{7} 1,234.5e-6 0x1F 1/2 -3",
    "https://example.org/a?b=c#d [1] - * ## `code`",
    "a\tb\r\nc\n\n\nd  e   f \u00a0 \u3000 \u2028",
    "!!! ??? ... ,;: ''' ### ~~~ \\n",
    'A B "A" [[A]] Assistant: User: system',
)
_EDGES = ("", "", "", " ", "  ", "\n", "\n\n", "\t", " \n ", "\u00a0", "\u3000")


def benign_texts(source: random.Random) -> Iterator[str]:
    """Endless ordinary texts: scripts, code, numbers, emoji, mixed and cut anywhere, with white space at the edges."""
    while True:
        words = [source.choice(_WORDS) for _ in range(source.randint(1, 4))]
        text = source.choice(("", " ", "\n", "\n\n")).join(words)
        start = source.randrange(len(text))
        cut = text[start : start + source.randint(0, 80)]
        number = str(source.randrange(10**6)) * source.randint(0, 1)
        yield source.choice(_EDGES) + cut + number + source.choice(_EDGES)

"""Pairs as a judge is shown them, for a person to read: control tokens visible, and where learning begins."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib.resources import files

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from service.judging import gram
from service.tokenization import ChatTokenizer
from training.data.pairs import DataError, Pair
from training.data.rows import LabelRows, PretrainRows

DEMO_JUDGE = files("service") / "demo"
_BOLD, _PLAIN = "\x1b[1;35m", "\x1b[0m"


def show(
    pairs: Iterable[Pair],
    checkpoint: str | None = None,
    *,
    stage: int,
    max_tokens: int,
    swapped: bool = False,
    colour: bool = False,
) -> Iterator[str]:
    """One text for each pair. Raises `DataError` for a checkpoint without a tokenizer, or a pair without a label."""
    tokenizer = _tokenizer(checkpoint or str(DEMO_JUDGE))
    chat = ChatTokenizer(tokenizer)
    labels, pretraining = LabelRows(chat, gram.FAMILY, max_tokens), PretrainRows(chat, max_tokens)
    for pair in pairs:
        if stage == 1:
            first = pretraining.row(pair, swapped=swapped)
            given, learned = first.ids[: first.completion_start], first.ids[first.completion_start :]
            ids, cut, target = first.ids, first.cut, _visible(tokenizer, chat, learned, colour)
        else:
            second = labels.row(pair, swapped=swapped)
            ids, cut, given, target = second.ids, second.cut, second.ids, gram.FAMILY.labels[second.label]
        lost = f", {cut:,} cut" if cut else ""
        yield f"=== {pair.id}: {len(ids):,} tokens{lost} " + "=" * 20
        yield _visible(tokenizer, chat, given, colour)
        yield f"--- learned from here on {'-' * 20}\n{target}\n"


def _tokenizer(checkpoint: str) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise DataError(f"Cannot load a tokenizer from {checkpoint}; check the path ({reason}).") from error


def _visible(tokenizer: PreTrainedTokenizerBase, chat: ChatTokenizer, ids: Iterable[int], colour: bool) -> str:
    """Text of token ids; control tokens keep their spelling, and stand out in a terminal."""
    parts: list[str] = []
    run: list[int] = []
    for token in (*ids, None):
        if token is not None and token not in chat.control_ids:
            run.append(token)
            continue
        parts.append(str(tokenizer.decode(run)))
        run = []
        if token is not None:
            name = str(tokenizer.convert_ids_to_tokens(token))
            parts.append(f"{_BOLD}{name}{_PLAIN}" if colour else name)
    return "".join(parts)

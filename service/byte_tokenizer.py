"""The fake engine's tokenizer: one token a byte, with a ChatML template. No file is read."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from service.tokenization import ChatTokenizer

END = "<|im_end|>"
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_tokenizer() -> ChatTokenizer:
    """Ids 0 to 255 are bytes of UTF-8, as the fake engine writes them; 256 and 257 are its control tokens."""
    tokenizer = Tokenizer(models.BPE(vocab=_byte_alphabet(), merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|im_start|>", END])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, chat_template=CHATML)
    return ChatTokenizer(fast, "The fake engine's tokenizer")


def _byte_alphabet() -> dict[str, int]:
    """The character that byte-level BPE writes for each byte: printable Latin-1 stands for itself, the rest follows
    from U+0100 on (the convention of GPT-2's vocabulary)."""
    shown = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(0x100 + i): byte for i, byte in enumerate(hidden)}

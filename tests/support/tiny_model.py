"""Random checkpoints that load in every engine: two Qwen3 layers, a byte-level BPE tokenizer with a ChatML template.

Their answers mean nothing; that every engine computes the same answers is what tests look at.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM, Qwen3ForSequenceClassification

MAX_MODEL_LEN = 512
# A prompt after which the causal model, when greedy, writes at most END_AFTER tokens and its end-of-sequence token.
ENDING_PROMPT, END_AFTER = "This text comes to its", 5
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_CORPUS = [
    "The judge reads a question and two answers, then says which answer is better: A or B.",
    "Feedback: Comparision: Conclusion: #Preferred: <answer> [[A]] [[B]] </answer> 0123456789",
]


@dataclass(frozen=True)
class TinyCheckpoints:
    """Directories. ``broken`` is the causal model with NaN in its last norm, ``adapter`` a LoRA of the causal model."""

    causal: Path
    classifier: Path
    adapter: Path
    broken: Path

    @property
    def max_model_len(self) -> int:
        return MAX_MODEL_LEN

    @property
    def vocabulary(self) -> int:
        return len(_load_tokenizer(self.causal))

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(_load_tokenizer(self.causal).encode(text))


def write_tiny_checkpoints(root: Path) -> TinyCheckpoints:
    """Write all of them below ``root``, once; the same bytes every time."""
    torch.set_num_threads(1)  # more only wait for each other on models this small
    made = TinyCheckpoints(root / "causal", root / "classifier", root / "adapter", root / "broken")
    if made.adapter.exists():
        return made
    tokenizer = _tokenizer()
    torch.manual_seed(20)
    causal = Qwen3ForCausalLM(_config(tokenizer))
    # Sharper than a fresh model, so that different prompts and both labels give clearly different probabilities.
    torch.nn.init.normal_(causal.lm_head.weight, std=0.3)
    _teach_to_end(causal, tokenizer)
    classifier = Qwen3ForSequenceClassification(_config(tokenizer, num_labels=1))
    torch.nn.init.normal_(classifier.score.weight, std=0.3)
    for model, path in ((causal, made.causal), (causal, made.broken), (classifier, made.classifier)):
        model.save_pretrained(path)
        tokenizer.save_pretrained(path)
    _break(made.broken)
    _write_adapter(causal, made.adapter)
    return made


def reference_logprobs(
    made: TinyCheckpoints, prompt_ids: Sequence[int], label_ids: Sequence[int], adapter: bool
) -> tuple[float, ...]:
    """Label log-probabilities by one plain forward pass, without any of our engines."""
    model = Qwen3ForCausalLM.from_pretrained(made.causal)
    if adapter:
        model = PeftModel.from_pretrained(model, made.adapter)
    with torch.inference_mode():
        logits = model(torch.tensor([prompt_ids])).logits[0, -1]
    return tuple(torch.log_softmax(logits, dim=-1)[list(label_ids)].tolist())


def reference_likelihood(made: TinyCheckpoints, prompt_ids: Sequence[int], scored_from: int, adapter: bool) -> float:
    """Log-probability of the tokens from ``scored_from`` on by the library's own loss over one plain forward pass."""
    model = Qwen3ForCausalLM.from_pretrained(made.causal)
    if adapter:
        model = PeftModel.from_pretrained(model, made.adapter)
    ids = torch.tensor([prompt_ids])
    labels = ids.clone()
    labels[0, :scored_from] = -100
    with torch.inference_mode():
        return -float(model(ids, labels=labels).loss) * (len(prompt_ids) - scored_from)


def reference_score(made: TinyCheckpoints, prompt_ids: Sequence[int]) -> float:
    """The classifier's raw output by one plain forward pass."""
    model = Qwen3ForSequenceClassification.from_pretrained(made.classifier)
    with torch.inference_mode():
        return float(model(torch.tensor([prompt_ids])).logits[0, 0])


@cache
def _load_tokenizer(path: Path) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(path)


def _config(tokenizer: PreTrainedTokenizerFast, **extra: int) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=MAX_MODEL_LEN,
        tie_word_embeddings=False,
        initializer_range=0.1,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        **extra,
    )


def _tokenizer() -> PreTrainedTokenizerFast:
    """ChatML marks are special tokens; <think> and </think> are added but not special, as in the Qwen3 family."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    inner.train_from_iterator(_CORPUS, trainer)
    inner.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    inner.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in ("<think>", "</think>")])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=CHATML
    )


def _teach_to_end(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Point the end token's output row at the one hidden state where it shall win."""
    ids = tokenizer.encode(ENDING_PROMPT, return_tensors="pt")
    with torch.inference_mode():
        for _ in range(END_AFTER):
            ids = torch.cat([ids, model(ids).logits[:, -1].argmax(-1, keepdim=True)], dim=1)
        hidden = model.model(ids).last_hidden_state[0, -1]
        top = model.lm_head(hidden).max()
    with torch.no_grad():
        model.lm_head.weight[tokenizer.eos_token_id] = hidden / hidden.dot(hidden) * (top + 0.5)


def _break(path: Path) -> None:
    file = path / "model.safetensors"
    weights = load_file(file)
    weights["model.norm.weight"] = torch.full_like(weights["model.norm.weight"], float("nan"))
    save_file(weights, file, metadata={"format": "pt"})


def _write_adapter(model: Qwen3ForCausalLM, path: Path) -> None:
    lora = get_peft_model(
        model, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    )
    for name, weight in lora.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.3)
    lora.save_pretrained(path)
    config = json.loads((path / "adapter_config.json").read_text())
    config["target_modules"].sort()  # a set there: its order differs between runs
    (path / "adapter_config.json").write_text(json.dumps(config))

"""What a stage writes: each weight once, in the type its configuration names, for whoever serves it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from tests.support.tiny_training import SCRATCH, SHAPE, TOKENIZER
from training.configs import ModelSection
from training.stages.export import save_model
from training.stages.models import load_tokenizer
from training.stages.saving import whole_directory


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_checkpoint_says_what_it_holds(tmp_path: Path, dtype: str, tied: bool) -> None:
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    model = Qwen3ForCausalLM(Qwen3Config(**SHAPE, vocab_size=len(tokenizer), tie_word_embeddings=tied))
    model.config.use_cache = False
    directory = tmp_path / "judge"
    with whole_directory(directory) as part:
        save_model(part, model, model.state_dict(), tokenizer, dtype, lambda: None)

    config = json.loads((directory / "config.json").read_text())
    assert (config["dtype"], config["use_cache"]) == (dtype, True)
    with safe_open(directory / "model.safetensors", "pt") as file:
        assert {str(file.get_tensor(name).dtype) for name in file.keys()} == {f"torch.{dtype}"}  # noqa: SIM118
        assert ("lm_head.weight" in file.keys()) is not tied  # noqa: SIM118
    again = Qwen3ForCausalLM.from_pretrained(directory, dtype="auto")
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value.to(getattr(torch, dtype)))


def test_a_saved_tokenizer_does_not_say_where_it_was_loaded_from(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(ModelSection.model_validate(SCRATCH))
    tokenizer.save_pretrained(tmp_path)
    saved, source = (json.loads((path / "tokenizer_config.json").read_text()) for path in (tmp_path, Path(TOKENIZER)))
    assert saved == source
    assert not {"is_local", "local_files_only"} & saved.keys()


def test_whoever_may_read_the_directory_may_read_its_files(tmp_path: Path) -> None:
    with whole_directory(tmp_path / "judge") as part:
        (part / "model.safetensors").touch(mode=0o600)
    mode = (tmp_path / "judge" / "model.safetensors").stat().st_mode & 0o777
    assert mode == (tmp_path / "judge").stat().st_mode & 0o666

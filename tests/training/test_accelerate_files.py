"""The shipped files for `accelerate launch`, read by accelerate's own parser: a misspelt key is an error."""

from __future__ import annotations

from argparse import Namespace
from typing import get_args

import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser

from tests.architecture.source import ROOT
from training.estimate import Sharding

FILES = ROOT / "training" / "recipes" / "accelerate"


def _launched(name: str) -> Namespace:
    words = ["--config_file", str(FILES / f"{name}.yaml"), "-m", "training", "finetune", "x.toml"]
    launched: Namespace = _validate_launch_command(launch_command_parser().parse_args(words))[0]
    return launched


def test_every_file_shards_as_it_is_called() -> None:
    assert {path.stem for path in FILES.iterdir()} == {"fsdp2", "zero2", "zero3"} <= set(get_args(Sharding))
    fsdp = _launched("fsdp2")
    assert (fsdp.use_fsdp, fsdp.fsdp_version, fsdp.fsdp_state_dict_type) == (True, 2, "FULL_STATE_DICT")
    assert fsdp.fsdp_reshard_after_forward is True
    for stage in (2, 3):
        zero = _launched(f"zero{stage}")
        assert (zero.use_deepspeed, zero.zero_stage, zero.mixed_precision) == (True, stage, "bf16")
        assert zero.gradient_accumulation_steps == zero.gradient_clipping == "auto", "the recipe decides"
    assert _launched("zero3").zero3_save_16bit_model is True, "without it the shards of a checkpoint cannot be gathered"


@pytest.mark.parametrize("name", ["fsdp2", "zero2", "zero3"])
def test_eight_processes_unless_told_otherwise(name: str) -> None:
    launched = _launched(name)
    assert (launched.num_processes, launched.num_machines, launched.use_cpu) == (8, 1, False)
    assert (launched.module, launched.training_script) == (True, "training")

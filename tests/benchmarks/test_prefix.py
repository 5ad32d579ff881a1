from __future__ import annotations

import json
from pathlib import Path

from benchmarks.prefix import BEFORE, BLOCKS, PREEMPTED, RESPONSE, RESPONSES, TIGHT_LENGTH, TIGHT_TOKENS, tight_engine


def test_the_tight_cache_holds_a_prompt_but_not_a_groups_prefixes(tmp_path: Path) -> None:
    config = {"num_hidden_layers": 4, "num_key_value_heads": 2, "hidden_size": 256, "num_attention_heads": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    engine = tight_engine(str(tmp_path))
    assert int(engine["kv_cache_bytes"]) == TIGHT_TOKENS * 2 * 4 * 2 * 64 * 4  # keys and values of 4 x 2 heads of 64
    assert TIGHT_LENGTH < TIGHT_TOKENS < BEFORE + RESPONSES * RESPONSE


def test_what_the_engine_says_of_its_cache_is_read() -> None:
    exposed = (
        'vllm:cache_config_info{block_size="32",engine="0",num_cpu_blocks="None",num_gpu_blocks="64",x="1"} 1.0\n'
        'vllm:num_preemptions_total{engine="0",model_name="m"} 3.0\n'
    )
    found = BLOCKS.search(exposed)
    assert found is not None
    assert found.groups() == ("32", "64")
    assert PREEMPTED.findall(exposed) == ["3.0"]

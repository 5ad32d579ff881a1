"""What only the reference engine shows; the rest is in tests/contract/test_engine_contract.py."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from service.engines.base import EngineRequest
from service.errors import InvalidInput, StartupError

if TYPE_CHECKING:
    from tests.support.tiny_model import TinyCheckpoints

pytestmark = pytest.mark.slow


async def test_scalar_reads_are_the_heads_raw_output(tiny_checkpoints: TinyCheckpoints) -> None:
    from service.engines.transformers import TransformersEngine, TransformersOptions
    from tests.support.tiny_model import reference_score

    engine = TransformersEngine(TransformersOptions(str(tiny_checkpoints.classifier), runner="pooling"))
    await engine.start()
    prompt = tiny_checkpoints.encode("How good is this?")
    done = await engine.complete(EngineRequest(prompt, "scalar"))
    assert done.score == pytest.approx(reference_score(tiny_checkpoints, prompt), abs=1e-5)
    with pytest.raises(InvalidInput):
        await engine.complete(EngineRequest(prompt, "label", label_ids=(1, 2)))
    await engine.close()


async def test_broken_weights_answer_nan(tiny_checkpoints: TinyCheckpoints) -> None:
    from service.engines.transformers import TransformersEngine, TransformersOptions

    engine = TransformersEngine(TransformersOptions(str(tiny_checkpoints.broken)))
    await engine.start()
    done = await engine.complete(EngineRequest(tiny_checkpoints.encode("A or B?"), "label", label_ids=(1, 2)))
    assert all(math.isnan(value) for value in done.label_logprobs)
    await engine.close()


async def test_what_cannot_be_loaded_stops_the_start(tmp_path: Path) -> None:
    from service.engines.transformers import TransformersEngine, TransformersOptions

    with pytest.raises(StartupError, match="There is no model"):
        await TransformersEngine(TransformersOptions("/nowhere")).start()
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(StartupError, match="Could not load"):
        await TransformersEngine(TransformersOptions(str(tmp_path))).start()

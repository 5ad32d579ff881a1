"""Which checkpoint may take another's place is found out from headers alone."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from service.engines.checkpoints import Checkpoint, tensor_shapes
from service.errors import NotApplied

CONFIG = {"architectures": ["Qwen3ForCausalLM"], "hidden_size": 8, "transformers_version": "5.0", "vocab_size": 16}
SHAPES = {"model.norm.weight": (8,), "lm_head.weight": (16, 8)}


def write(folder: Path, shapes: dict[str, tuple[int, ...]] = SHAPES, **config: Any) -> str:
    """A checkpoint of zeros in float32."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in shapes.items():
        size = 4
        for n in shape:
            size *= n
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    head = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + bytes(at))
    return str(folder)


def test_shapes_are_read_from_the_header(tmp_path: Path) -> None:
    assert tensor_shapes(write(tmp_path / "a")) == SHAPES


def test_a_twin_may_take_its_place_whoever_wrote_it(tmp_path: Path) -> None:
    present = Checkpoint.read(write(tmp_path / "a"))
    present.check_replaceable(write(tmp_path / "b", transformers_version="5.19"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"hidden_size": 16}, "another kind .hidden_size"),
        ({"shapes": SHAPES | {"lm_head.weight": (32, 8)}}, "another shape .lm_head.weight"),
        ({"shapes": {"model.norm.weight": (8,)}}, "lacks tensors"),
    ],
    ids=["config", "shape", "missing"],
)
def test_another_kind_may_not(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    present = Checkpoint.read(write(tmp_path / "a"))
    other = write(tmp_path / "b", **change)
    with pytest.raises(NotApplied, match=says) as caught:
        present.check_replaceable(other)
    assert str(tmp_path) not in caught.value.message


@pytest.mark.parametrize("keep", [0, 4, 40, -1])
def test_a_damaged_file_may_not(tmp_path: Path, keep: int) -> None:
    present = Checkpoint.read(write(tmp_path / "a"))
    other = Path(write(tmp_path / "b")) / "model.safetensors"
    other.write_bytes(other.read_bytes()[:keep])
    with pytest.raises(NotApplied, match="write it again"):
        present.check_replaceable(str(other.parent))

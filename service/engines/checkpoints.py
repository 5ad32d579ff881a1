"""Checkpoint directories, looked at without loading them: may one take another's place in a running engine?

Weights are copied into the place of others of the same name and shape. Shapes stand in the headers of safetensors files
(eight bytes of length, then JSON), which takes milliseconds to read, whatever the model's size.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.errors import NotApplied

MAX_HEADER_BYTES = 100 * 2**20
"""The format's own bound."""

SHAPING = (
    *("architectures", "model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size"),
    *("num_attention_heads", "num_key_value_heads", "head_dim", "tie_word_embeddings", "rope_theta", "rope_scaling"),
    *("rope_parameters", "rms_norm_eps", "hidden_act", "sliding_window", "max_position_embeddings", "num_labels"),
    *("layer_types", "attention_bias", "num_experts", "num_experts_per_tok", "quantization_config", "eos_token_id"),
)
"""What of config.json an engine has built its layers, its cache and its stop rule from."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What an engine was built from: config.json, and the shape of every tensor (None: not known)."""

    config: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]] | None = None

    @classmethod
    def read(cls, model: str) -> Checkpoint:
        """Raises `OSError` and `ValueError`."""
        return cls(json.loads((Path(model) / "config.json").read_text("utf-8")), tensor_shapes(model))

    def check_replaceable(self, model: str) -> None:
        """Raises `NotApplied` unless the checkpoint in the directory ``model`` can take this one's place."""
        name = Path(model).name
        try:
            other = Checkpoint.read(model)
        except (OSError, ValueError) as error:
            raise NotApplied(
                f"The checkpoint {name} has no readable config.json and safetensors files; write it again."
            ) from error
        mine, its, shapes = self.config, other.config, other.shapes or {}
        differing = [key for key in SHAPING if key in mine and key in its and mine[key] != its[key]]
        if differing:
            raise NotApplied(
                f"The checkpoint {name} is of another kind ({', '.join(differing[:3])} of config.json differ); "
                "start a service of its own for it."
            )
        wrong = sorted(tensor for tensor, shape in (self.shapes or {}).items() if shapes.get(tensor) != shape)
        if wrong:
            raise NotApplied(
                f"The checkpoint {name} lacks tensors of the present one, or has them in another shape "
                f"({', '.join(wrong[:3])}); start a service of its own for it."
            )


def tensor_shapes(model: str) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor in the directory's safetensors files. Raises `OSError` and `ValueError` (no files, or
    damaged ones: cut short, or not of this format)."""
    shapes: dict[str, tuple[int, ...]] = {}
    files = sorted(Path(model).glob("*.safetensors"))
    if not files:
        raise ValueError("no safetensors files")
    for path in files:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8)) if path.stat().st_size >= 8 else (0,)
            if not 2 <= length <= MAX_HEADER_BYTES:
                raise ValueError("no safetensors header")
            header = json.loads(file.read(length))
        tensors = {name: tensor for name, tensor in header.items() if name != "__metadata__"}
        end = max((tensor["data_offsets"][1] for tensor in tensors.values()), default=0)
        if path.stat().st_size != 8 + length + end:
            raise ValueError("cut short")
        shapes |= {name: tuple(tensor["shape"]) for name, tensor in tensors.items()}
    return shapes

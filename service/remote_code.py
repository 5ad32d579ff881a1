"""Checkpoints that bring Python code of their own, which a library would run while it loads them.

Such a checkpoint says so with ``auto_map`` in one of its JSON files. Libraries are asked with
``trust_remote_code=False``, but that switch has failed before (CVE-2026-22807, CVE-2026-27893 in vLLM), so a checkpoint
that names code is refused before any library sees it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from service.errors import StartupError

KEY = "auto_map"


def refuse_remote_code(model: Path) -> None:
    """Raise `StartupError` where a configuration in the checkpoint directory (model, tokenizer, ..) names code to run.

    A file that is no JSON is none of this function's business: whoever needs it says what is wrong with it.
    """
    for path in sorted(model.glob("*config.json")):  # vocabularies, where the word may be a token, are not looked at
        try:
            text = path.read_text("utf-8")
            if KEY in text and _names_code(json.loads(text)):
                raise StartupError(
                    f"{path} names Python code that loading the checkpoint would run ({KEY}); remove the entry if the "
                    "model's class is in the library, or set engine.trust_remote_code if you trust its author."
                )
        except (OSError, ValueError, RecursionError):
            continue


def _names_code(data: Any) -> bool:
    """Whether the key is there at any depth: configurations of parts lie inside the model's."""
    if isinstance(data, dict):
        return bool(data.get(KEY)) or any(map(_names_code, data.values()))
    return isinstance(data, list) and any(map(_names_code, data))

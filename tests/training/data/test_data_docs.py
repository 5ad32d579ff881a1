"""docs/data.md says what the code does: formats with their examples, keys of a recipe, reasons for a drop."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

from training.data.formats.registry import FORMATS
from training.data.recipe import DataRecipe, Input

GIVING_REASONS = ("fault_of", "faults", "sides", "beyond_limit")


def test_every_format_stands_in_the_documents_with_its_example(root: Path) -> None:
    text = (root / "docs/data.md").read_text(encoding="utf-8")
    listed = re.findall(r"^### (\w+)\n\n([^\n]+)\n\n```json\n(.+?)\n```$", text, re.MULTILINE | re.DOTALL)
    assert [name for name, _, _ in listed] == list(FORMATS)
    for name, about, example in listed:
        assert about.lower() == FORMATS[name].about.lower() + "."
        assert json.loads(example) == FORMATS[name].example


def test_every_key_of_a_recipe_stands_in_the_documents(root: Path) -> None:
    recipe = (root / "docs/data.md").read_text(encoding="utf-8").partition("## Recipe")[2].partition("\n## ")[0]
    missing = [
        key for model in (DataRecipe, Input) for key in model.model_fields if not re.search(rf"\b{key}\b", recipe)
    ]
    assert not missing


def test_every_reason_for_a_drop_stands_in_the_documents(root: Path) -> None:
    policy = (root / "docs/data.md").read_text(encoding="utf-8").partition("## Decontamination")[0]
    reasons = {reason for name in ("cleaning", "building") for reason in _reasons(root / f"training/data/{name}.py")}
    assert {"empty response", "margin below", "its prompt is in the"} <= reasons
    assert not [reason for reason in reasons if reason not in policy]


def _reasons(path: Path) -> Iterator[str]:
    """Texts in the functions that give reasons, up to the first value filled in; documentation left out."""
    for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(function, ast.FunctionDef) and function.name.strip("_") in GIVING_REASONS:
            for node in (node for statement in function.body[1:] for node in ast.walk(statement)):
                text = node.values[0] if isinstance(node, ast.JoinedStr) else node
                if isinstance(text, ast.Constant) and isinstance(text.value, str) and " " in text.value.strip():
                    yield text.value.partition("(")[0].strip()

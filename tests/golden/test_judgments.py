"""Written judgments in every form that the families know, and how each is read: verdict, sections, contradictions.

A text stands beside its reading, which was written by hand and is never rewritten to make a test pass: training rewards
and rejects by these readings.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from service.judging import gram_r2
from service.judging.base import require_pairwise
from service.judging.registry import get_family

JUDGMENTS = sorted((Path(__file__).parent / "judgments").glob("*.txt"))


@pytest.mark.parametrize("path", JUDGMENTS, ids=lambda path: path.stem)
def test_a_judgment_is_read_as_it_stands_there(path: Path) -> None:
    text = path.read_bytes().decode()
    expected = json.loads(path.with_suffix(".json").read_text("utf-8"))
    parsed = require_pairwise(get_family(expected.pop("family"), expected.pop("template"))).parse(text)
    found = {"verdict": parsed.verdict, "conflicting": parsed.conflicting, "sections": dict(parsed.sections)}
    assert found == expected
    assert parsed.label_at is None or text[parsed.label_at] == parsed.verdict


def test_every_family_that_writes_has_its_forms_here() -> None:
    names = {path.stem.rpartition("_")[0] for path in JUDGMENTS}
    assert {"gram_r2", "rm_r1"} <= names


def test_the_service_writes_gram_r2_byte_for_byte() -> None:
    path = next(path for path in JUDGMENTS if path.stem == "gram_r2_written")
    sections = json.loads(path.with_suffix(".json").read_text("utf-8"))["sections"]
    written = gram_r2.write(sections["feedback"], sections["comparison"], sections["conclusion"], "A")
    assert written.encode() == path.read_bytes()

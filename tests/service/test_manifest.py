"""judge.json: what training writes the service reads, and anything else stops the start with a sentence that helps."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import StartupError
from service.manifest import FILE_NAME, JudgeEntry, Manifest, SelfTest
from tests.support.properties import bar

GOOD: dict[str, Any] = {
    "format": 1,
    "version": "demo-2",
    "judges": [
        {
            "name": "demo",
            "family": "gram",
            "template": "eval",
            "labels": ["A", "B"],
            "max_prompt_tokens": 1024,
            "max_rationale_tokens": 0,
            "self_test": {"prompt": "2 + 2 = ?", "chosen": "4", "rejected": "5", "min_p": 0.6},
        },
        {
            "name": "demo-r2",
            "family": "gram_r2",
            "template": "release",
            "labels": ["A", "B"],
            "max_prompt_tokens": 1024,
            "max_rationale_tokens": 256,
            "adapter": "adapters/r2",
        },
        {
            "name": "scorer",
            "family": "scalar",
            "template": "chat",
            "labels": [],
            "max_prompt_tokens": 512,
            "max_rationale_tokens": 0,
        },
    ],
}


def write(directory: Path, data: Any) -> Path:
    text = data if isinstance(data, str) else json.dumps(data)
    (directory / FILE_NAME).write_text(text, "utf-8")
    return directory


def changed(path: str, value: Any = ..., *, drop: bool = False) -> dict[str, Any]:
    """GOOD with the field at a dotted path (numbers are list places) set or dropped."""
    data = copy.deepcopy(GOOD)
    *way, last = (int(part) if part.isdigit() else part for part in path.split("."))
    target: Any = data
    for part in way:
        target = target[part]
    if drop:
        del target[last]
    else:
        target[last] = value
    return data


def test_a_manifest_is_read(tmp_path: Path) -> None:
    manifest = Manifest.load(write(tmp_path, GOOD))
    assert manifest is not None
    assert manifest.version == "demo-2"
    assert manifest.judges[0] == JudgeEntry(
        "demo", "gram", "eval", ("A", "B"), 1024, 0, SelfTest("2 + 2 = ?", "4", "5", 0.6)
    )
    assert [judge.adapter for judge in manifest.judges] == [None, "adapters/r2", None]
    assert manifest.judges[2].labels == ()


def test_a_checkpoint_without_one_has_none(tmp_path: Path) -> None:
    assert Manifest.load(tmp_path) is None
    assert Manifest.load(tmp_path / "missing") is None


def test_saving_and_loading_gives_the_same_and_the_same_bytes(tmp_path: Path) -> None:
    manifest = Manifest.load(write(tmp_path, GOOD))
    assert manifest is not None
    first = manifest.save(tmp_path).read_bytes()
    again = Manifest.load(tmp_path)
    assert again == manifest
    assert again.save(tmp_path).read_bytes() == first
    assert json.loads(first) == GOOD


def test_saving_refuses_what_loading_would_refuse(tmp_path: Path) -> None:
    entry = JudgeEntry("demo", "gram", "eval", ("A", "A"), 1024, 0)
    with pytest.raises(StartupError, match="labels"):
        Manifest("v", (entry,)).save(tmp_path)
    assert not (tmp_path / FILE_NAME).exists()


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("format", changed("format", 2), "format is not 1"),
    ("format", changed("format", True), "format is not 1"),
    ("format", changed("format", "1"), "format is not 1"),
    ("format", changed("format", drop=True), "format is missing"),
    ("version", changed("version", drop=True), "version is missing"),
    ("version", changed("version", " "), "version must be a text"),
    ("version", changed("version", "\ud800"), "version must be a text"),
    ("extra", changed("extra", 1), "extra is not a known field"),
    ("judges", changed("judges", drop=True), "judges is missing"),
    ("judges", changed("judges", {}), "judges must be a list"),
    ("judges", changed("judges", []), "at least one judge"),
    ("judges", changed("judges.1.name", "demo"), "names that differ"),
    ("judges[0]", changed("judges.0", "gram"), r"judges\[0\] must be a JSON object"),
    ("name", changed("judges.0.name", 3), r"judges\[0\]\.name must be a text"),
    ("family", changed("judges.1.family", drop=True), r"judges\[1\]\.family is missing"),
    ("template", changed("judges.0.template", None), r"judges\[0\]\.template must be a text"),
    ("labels", changed("judges.0.labels", ["A"]), r"judges\[0\]\.labels must be two texts"),
    ("labels", changed("judges.0.labels", "AB"), r"judges\[0\]\.labels must be a list"),
    ("labels", changed("judges.0.labels", ["A", 2]), r"judges\[0\]\.labels must be two texts"),
    ("labels", changed("judges.0.labels", [["A"], ["B"]]), r"judges\[0\]\.labels must be two texts"),
    ("labels", changed("judges.0.labels", ["A", "A"]), r"judges\[0\]\.labels must differ"),
    ("max_prompt_tokens", changed("judges.0.max_prompt_tokens", 0), "max_prompt_tokens must be a whole number"),
    ("max_prompt_tokens", changed("judges.0.max_prompt_tokens", 1.5), "max_prompt_tokens must be a whole number"),
    ("max_prompt_tokens", changed("judges.0.max_prompt_tokens", True), "max_prompt_tokens must be a whole number"),
    ("max_rationale_tokens", changed("judges.0.max_rationale_tokens", -1), "max_rationale_tokens must be"),
    ("typo", changed("judges.0.max_promt_tokens", 5), r"judges\[0\]\.max_promt_tokens is not a known field"),
    ("self_test", changed("judges.0.self_test", None), r"judges\[0\]\.self_test must be a JSON object"),
    ("min_p", changed("judges.0.self_test.min_p", 1.5), r"judges\[0\]\.self_test\.min_p must be a number"),
    ("min_p", changed("judges.0.self_test.min_p", 0.1), r"judges\[0\]\.self_test\.min_p must be a number"),
    ("min_p", changed("judges.0.self_test.min_p", True), r"judges\[0\]\.self_test\.min_p must be a number"),
    ("chosen", changed("judges.0.self_test.chosen", drop=True), r"self_test\.chosen is missing"),
    ("extra", changed("judges.0.self_test.extra", 1), r"self_test\.extra is not a known field"),
    ("adapter", changed("judges.1.adapter", "/etc"), r"judges\[1\]\.adapter must be a path inside"),
    ("adapter", changed("judges.1.adapter", "a/../../b"), r"judges\[1\]\.adapter must be a path inside"),
    ("adapter", changed("judges.1.adapter", None), r"judges\[1\]\.adapter must be a text"),
]


@pytest.mark.parametrize(("field", "data", "message"), BAD, ids=[f"{i}-{case[0]}" for i, case in enumerate(BAD)])
def test_a_wrong_field_is_named_with_its_file(tmp_path: Path, field: str, data: dict[str, Any], message: str) -> None:
    with pytest.raises(StartupError, match=message) as caught:
        Manifest.load(write(tmp_path, data))
    assert str(tmp_path / FILE_NAME) in caught.value.message
    assert caught.value.message.endswith(".")
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '{"format": NaN}', "[" * 100_000, "\ufeff{}"])
def test_what_is_not_a_json_object_stops_the_start(tmp_path: Path, text: str) -> None:
    with pytest.raises(StartupError, match=r"judge\.json"):
        Manifest.load(write(tmp_path, text))


def test_bytes_that_are_not_utf_8_stop_the_start(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b'{"version": "\xff"}')
    with pytest.raises(StartupError, match="not valid JSON"):
        Manifest.load(tmp_path)


def test_a_manifest_that_cannot_be_read_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(StartupError, match="Cannot read"):
        Manifest.load(tmp_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ["format", "version", "judges", "judges.0", *(f"judges.0.{key}" for key in GOOD["judges"][0])]


@bar(2_000)
@given(field=st.sampled_from(FIELDS), value=JSON)
def test_any_value_in_any_field_is_read_or_refused(tmp_path_factory: Any, field: str, value: Any) -> None:
    directory = tmp_path_factory.getbasetemp()
    try:
        manifest = Manifest.load(write(directory, changed(field, value)))
    except StartupError:
        return
    assert manifest is not None
    assert Manifest.load(manifest.save(directory).parent) == manifest

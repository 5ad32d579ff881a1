"""A data set is built whole or not at all: every row is accounted for, no prompt is on two sides."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from training.data import building
from training.data.building import build
from training.data.card import percentiles
from training.data.files import sha256_of
from training.data.formats.registry import FORMATS
from training.data.pairs import DataError, Pair, read_pairs
from training.data.recipe import DataRecipe
from training.data.texts import wording

WORDS = [f"{letter}{letter}op" for letter in "abcdefghijklmnqr"]


REAL = os.environ.get("GRAM_DATA_DIR")


@pytest.fixture(autouse=True)
def _picture(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than building this little: only tests that look at the picture draw it."""
    if not request.node.get_closest_marker("slow"):
        monkeypatch.setattr(building, "draw", lambda card, path: path.touch())


def question(i: int) -> str:
    return f"What do you know about {WORDS[i % 16]} and {WORDS[i // 16 % 16]}, number {i}?"


def row(i: int, **changes: Any) -> dict[str, Any]:
    """A preference over a question of its own; the better response is the longer one in every second row."""
    chosen = f"{WORDS[i % 16]} is {'really ' * (i % 2)}good, says {i}."
    return {"prompt": question(i), "chosen": chosen, "rejected": f"nothing about {i}", **changes}


NOISE = [
    row(0),  # a duplicate
    row(1, chosen=row(1)["rejected"], rejected=row(1)["chosen"]),  # contradicts, and takes the other with it
    row(900, chosen=" "),
    row(901, chosen="same ", rejected="same"),
    row(902, prompt="  "),
    row(903, chosen="broken \ud800"),
    row(904, prompt="Tell me: " + question(15) + " And what of the weather in the north of the country today?"),
]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return str(path)


def recipe(folder: Path, **changes: Any) -> DataRecipe:
    source = write(folder / "source.jsonl", [row(i) for i in range(200)] + NOISE)
    given = {"inputs": [{"path": source, "name": "s"}], "output": "out", "validation": 0.2, "test": 0.1, **changes}
    return DataRecipe.of(given, "the test")


def pairs_of(output: Path) -> dict[str, list[Pair]]:
    return {path.stem: list(read_pairs(path)) for path in sorted(output.glob("*.jsonl"))}


def test_every_row_is_accounted_for(tmp_path: Path) -> None:
    output = tmp_path / "out"
    card = build(recipe(tmp_path), output)
    assert sorted(path.name for path in output.iterdir()) == [
        "card.json",
        "card.md",
        "lengths.png",
        "test.jsonl",
        "train.jsonl",
        "validation.jsonl",
    ]
    held = json.loads((output / "card.json").read_text())
    assert held["dropped"] == {
        "conflicting labels": 2,
        "duplicate": 1,
        "empty response": 1,
        "identical responses": 1,
        "empty prompt": 1,
        "lone surrogate": 1,
    }
    assert held["totals"] == {"read": 207, "dropped": 7, "kept": 200}
    pairs = pairs_of(output)
    assert {name: len(found) for name, found in pairs.items()} == {n: s["pairs"] for n, s in held["sides"].items()}
    for name, side in held["sides"].items():
        assert side["sha256"] == sha256_of(output / f"{name}.jsonl")
        assert side["labels"] == Counter(pair.label for pair in pairs[name])
    [source] = held["sources"]
    assert source["kept"] == {name: len(found) for name, found in pairs.items()}
    assert source["files"] == [
        {"location": source["path"], "sha256": sha256_of(Path(source["path"])), "format": "preference", "rows": 207}
    ]
    assert card.as_json() == held


@pytest.mark.slow
def test_the_card_says_what_length_alone_explains(tmp_path: Path) -> None:
    output = tmp_path / "out"
    even = write(tmp_path / "even.jsonl", [row(i, chosen=f"yes {i}", rejected=f"no! {i}") for i in range(200, 230)])
    inputs = [{"path": even, "name": "e"}, *recipe(tmp_path).model_dump()["inputs"]]
    build(recipe(tmp_path, validation=0.0, test=0.0, inputs=inputs), output)
    pairs = pairs_of(output)["train"]
    assert sum(len(p.chosen) == len(p.rejected) for p in pairs) >= 30
    scores = [0.5 if len(p.chosen) == len(p.rejected) else float(len(p.chosen) > len(p.rejected)) for p in pairs]
    side = json.loads((output / "card.json").read_text())["sides"]["train"]
    assert side["length_only_accuracy"] == round(sum(scores) / len(scores), 4)
    assert side["characters"]["better"] == percentiles([len(p.chosen) for p in pairs])
    text = (output / "card.md").read_text()
    assert "| conflicting labels | 2 | s 2 |" in text and "lengths.png" in text
    assert (output / "lengths.png").read_bytes().startswith(b"\x89PNG")


def test_no_prompt_stands_on_two_sides_and_sides_of_responses_are_drawn(tmp_path: Path) -> None:
    output = tmp_path / "out"
    build(recipe(tmp_path), output)
    sides = {name: {wording(p.prompt.messages[0].content) for p in found} for name, found in pairs_of(output).items()}
    assert not (sides["train"] & sides["validation"] or sides["train"] & sides["test"])
    labels = Counter(pair.label for found in pairs_of(output).values() for pair in found)
    assert 70 < labels["a"] < 130, "the source has the better response first in every row"


@pytest.mark.slow
def test_the_same_recipe_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "one", tmp_path / "two"
    for output in (first, second):
        build(recipe(tmp_path), output)
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes(), path.name
    third = tmp_path / "three"
    build(recipe(tmp_path, seed=1), third)
    assert (third / "train.jsonl").read_bytes() != (first / "train.jsonl").read_bytes()


def test_what_a_benchmark_asks_is_dropped_and_counted(tmp_path: Path) -> None:
    bench = tmp_path / "mybench"
    bench.mkdir()
    write(bench / "test.jsonl", [{"question": question(i).upper()} for i in (5, 15)])
    card = build(recipe(tmp_path, decontaminate=[str(bench)]), tmp_path / "out")
    assert card.dropped["asked by a benchmark (same wording)"] == 2
    assert card.dropped["asked by a benchmark (8-grams)"] == 1
    assert card.overlaps == {"mybench: 8-grams": 1, "mybench: same wording": 2}
    assert card.benchmark_prompts == 2
    asked = {p.prompt.messages[0].content for found in pairs_of(tmp_path / "out").values() for p in found}
    assert question(5) not in asked and question(6) in asked


def test_a_held_out_source_keeps_its_prompts_to_itself(tmp_path: Path) -> None:
    held = write(tmp_path / "held.jsonl", [row(i, chosen=f"other answer {i}") for i in range(10)] + [row(20)])
    given = recipe(tmp_path, validation=0.0, test=0.0)
    inputs = [*given.model_dump()["inputs"], {"path": held, "name": "h", "side": "validation"}]
    card = build(DataRecipe.of({**given.model_dump(), "inputs": inputs}, "the test"), tmp_path / "out")
    assert card.dropped["its prompt is in the validation data"] == 9, "of ten prompts, one had contradicting rows"
    assert [source.title for source in card.sources] == ["h", "s"], "held-out data is read first"
    assert card.sources[0].kept == {"validation": 11}
    assert card.dropped["duplicate"] == 2, "of equal pairs the held-out one stays"


def test_filters(tmp_path: Path) -> None:
    rows = [
        {**FORMATS["autoj"].example, "prompt": question(i % 4), "response 1": f"r {i}", "label": 2 * (i % 2)}
        for i in range(40)
    ]
    source = write(tmp_path / "ties.jsonl", rows)
    base: dict[str, Any] = {"inputs": [{"path": source}], "output": "o", "validation": 0, "near_duplicates": "none"}

    def built(name: str, **changes: Any) -> Counter[str]:
        return build(DataRecipe.of({**base, **changes}, "t"), tmp_path / name).dropped

    mixed = [{**FORMATS["conversations"].example, "source": name} for name in ("good", "bad")]
    mix = {"path": write(tmp_path / "mix.jsonl", mixed), "drop_subsets": ["bad"]}
    assert built("mix", inputs=[mix]) == {"subset left out by the recipe": 1}
    assert built("labelled") == {"no label (a tie, or never judged)": 20}
    assert built("any", labels="optional") == {}
    assert built("capped", labels="optional", max_per_prompt=3) == {"more than 3 pairs of one prompt": 28}
    assert built(
        "short",
        labels="optional",
        max_chars=10,
        inputs=[
            {"path": source},
            {"path": write(tmp_path / "x.jsonl", [row(1, prompt="q", chosen="a", rejected="b")])},
        ],
    ) == {"longer than 10 characters": 40}
    with pytest.raises(DataError, match=r"Nothing is left to train on; the reasons: margin below 2 \(20\)"):
        built("margin", labels="optional", inputs=[{"path": source, "min_margin": 2, "limit": 40}], max_chars=1)


def test_near_duplicates_are_dropped_and_near_prompts_stay_together(tmp_path: Path) -> None:
    long = " ".join(f"{word}{i}" for i in range(20) for word in WORDS)
    rows = [
        row(i, prompt=f"{long} {i // 2}", chosen=f"{i % 2} {long} good {i // 2}", rejected=f"{long[::-1]} {i % 2}")
        for i in range(40)
    ]
    rows += [row(100 + i, prompt=f"{long} {i}") for i in range(40)]
    base = recipe(tmp_path, inputs=[{"path": write(tmp_path / "near.jsonl", rows)}], validation=0.2, test=0.0)
    card = build(base, tmp_path / "out")
    assert card.dropped == {"near-duplicate": 39}
    assert card.near_duplicate_share == 39 / 80
    assert len(pairs_of(tmp_path / "out")) == 1, "all these prompts are nearly the same: they stay on one side"
    given = DataRecipe.of({**base.model_dump(), "near_duplicates": "none"}, "t")
    assert build(given, tmp_path / "two").totals["kept"] == 80
    assert len(pairs_of(tmp_path / "two")) == 2


def test_rows_in_a_list_are_left_out(tmp_path: Path) -> None:
    listed = tmp_path / "listed.json"
    listed.write_text(json.dumps({"a": {"b": [0, 2]}}))
    source = write(tmp_path / "s.jsonl", [row(i) for i in range(5)])
    inputs = [{"path": source, "drop_rows": {"file": str(listed), "key": "a.b"}}]
    card = build(DataRecipe.of({"inputs": inputs, "output": "o", "validation": 0}, "t"), tmp_path / "out")
    assert card.dropped == {"in the list of rows to drop": 2}
    assert [p.id for p in pairs_of(tmp_path / "out")["train"]] == [f"preference/{i}" for i in (2, 4, 5)]
    inputs[0]["drop_rows"] = {"file": str(listed), "key": "a.c"}
    with pytest.raises(DataError, match=r"listed\.json, field a\.c: must be a list"):
        build(DataRecipe.of({"inputs": inputs, "output": "o"}, "t"), tmp_path / "out2")


def test_a_folder_that_cannot_be_replaced_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "folder" / "out"
    build(recipe(tmp_path), output)
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    rename = Path.rename

    def failing(path: Path, target: Path) -> Path:
        if path.suffix == ".part" and path.is_dir():
            raise OSError("No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="No space"):
        build(recipe(tmp_path, seed=1), output, force=True)
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before
    assert [path.name for path in output.parent.iterdir()] == ["out"]


def test_two_inputs_of_one_name_are_refused(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{name}.jsonl", [row(i)]) for i, name in enumerate("ab")]
    given = {"inputs": [{"path": path} for path in paths], "output": "o", "validation": 0}
    with pytest.raises(DataError, match=r"a\.jsonl and .*b\.jsonl both hold a pair with id preference/1; give one"):
        build(DataRecipe.of(given, "t"), tmp_path / "out")


def test_an_error_leaves_no_half_built_output(tmp_path: Path) -> None:
    source = write(tmp_path / "s.jsonl", [row(1), {"prompt": "q", "chosen": "x"}])
    given = DataRecipe.of({"inputs": [{"path": source}], "output": "o"}, "t")
    output = tmp_path / "folder" / "out"
    with pytest.raises(DataError, match=r"s\.jsonl, row 2, field rejected: missing"):
        build(given, output)
    assert list(output.parent.iterdir()) == []
    good = recipe(tmp_path)
    build(good, output)
    before = (output / "card.json").read_bytes()
    with pytest.raises(DataError, match="exists already"):
        build(good, output)
    with pytest.raises(DataError, match="row 2"):
        build(given, output, force=True)
    assert (output / "card.json").read_bytes() == before, "what was there stays until the new one is whole"
    build(recipe(tmp_path, seed=1), output, force=True)
    assert (output / "card.json").read_bytes() != before
    assert [path.name for path in output.parent.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("output = 1", "field inputs: Field required"),
        ('inputs = []\noutput = "x"', "field inputs"),
        ('inputs = [{path = "x", forat = "tldr"}]\noutput = "x"', "field inputs.0.forat"),
        ('inputs = [{path = "x"}]\noutput = "x"\nvalidation = 0.6\ntest = 0.4', "must leave something to train on"),
        ("inputs = [", "not TOML"),
    ],
)
def test_a_recipe_that_cannot_be_read_names_file_and_key(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "r.toml"
    path.write_text(text)
    with pytest.raises(DataError, match=r"r\.toml") as error:
        DataRecipe.load(path)
    assert complaint in str(error.value)


def test_paths_may_hold_environment_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = DataRecipe.of({"inputs": [{"path": "$SOME_DATA_DIR/s.jsonl"}], "output": "o", "validation": 0}, "t")
    monkeypatch.delenv("SOME_DATA_DIR", raising=False)
    with pytest.raises(DataError, match="needs the environment variable SOME_DATA_DIR"):
        build(given, tmp_path / "out")
    monkeypatch.setenv("SOME_DATA_DIR", str(tmp_path))
    write(tmp_path / "s.jsonl", [row(1)])
    card = build(given, tmp_path / "out")
    assert card.sources[0].path == card.sources[0].origins[0].location == "$SOME_DATA_DIR/s.jsonl"
    assert str(tmp_path) not in (tmp_path / "out" / "card.md").read_text(), "the card names no machine"


@pytest.mark.slow
@pytest.mark.skipif(REAL is None, reason="GRAM_DATA_DIR is not set: the real data is not here")
def test_real_data_is_built_and_accounted_for(tmp_path: Path) -> None:
    """A folder in two formats, a benchmark that asks some of it, a held-out source."""
    inputs = [
        {"path": "$GRAM_DATA_DIR/dpo_demo/dpo_en_demo.json"},
        {"path": "$GRAM_DATA_DIR/ultrafeedback/train_clean.jsonl"},
        {"path": "$GRAM_DATA_DIR/ultrafeedback/eval_clean.jsonl", "side": "validation", "name": "held"},
    ]
    given = {"inputs": inputs, "output": "o", "decontaminate": ["$GRAM_DATA_DIR/judgebench"], "validation": 0}
    card = build(DataRecipe.of(given, "t"), tmp_path / "out")
    totals = card.totals
    assert totals["read"] == 1500 and totals["read"] == totals["dropped"] + totals["kept"]
    assert sum(card.overlaps.values()) >= 1, "one question of the benchmark stands in the first file"
    sides = {
        name: {wording(p.prompt.messages[0].content) for p in found}
        for name, found in pairs_of(tmp_path / "out").items()
    }
    assert not sides["train"] & sides["validation"]


def test_shipped_data_recipes_load(root: Path) -> None:
    paths = sorted((root / "training/recipes/data").glob("*.toml"))
    assert paths
    for path in paths:
        head = path.read_text(encoding="utf-8")
        assert DataRecipe.load(path).inputs and head.startswith("#") and "Launch:" in head

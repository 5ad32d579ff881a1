"""Every row format: its example is read, it is recognised by its columns, and what is wrong with a row is named."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from service.judging import gram
from service.types import Comparison, Message, Prompt, Response
from training.data import pretraining
from training.data.formats.base import Dropped, Read, Row
from training.data.formats.registry import FORMATS, detect, get_format
from training.data.pairs import DataError, Pair
from training.data.sources import Reading, Source, pairs_of

REAL = os.environ.get("GRAM_DATA_DIR")
QUESTION = Prompt.from_text("Name a prime number.")
DIALOGUE = Prompt((Message("user", "Hi."), Message("assistant", "Hello!"), Message("user", "Name a prime number.")))
PRIME = ("7 is prime.", "9 is prime.")
POST = Prompt.from_text(
    "My neighbour borrowed my ladder in May. It is October, and he painted it green. What do I say?\n\nTL;DR:"
)
LADDERS = (" Neighbour kept my ladder for months and painted it. How do I bring it up?", " I own a ladder.")
# What each format's example says: prompt, first and second response, label, margin.
EXAMPLES: dict[str, tuple[Any, ...]] = {
    "pairs": (QUESTION, "7", "9", "a", None),
    "gram_stage1": (QUESTION, *PRIME, None, None),
    "gram_stage2": (QUESTION, *PRIME, "a", None),
    "unified_feedback": (QUESTION, *PRIME, "a", 1.0),
    "hh_rlhf": (DIALOGUE, *PRIME, "a", None),
    "conversations": (QUESTION, *PRIME, "a", None),
    "ultrafeedback": (QUESTION, *PRIME, "a", 6.5),
    "preference": (QUESTION, *PRIME, "a", None),
    "sharegpt": (DIALOGUE, *PRIME, "a", None),
    "tldr": (POST, *LADDERS, "a", None),
    "summarize_from_feedback": (
        Prompt.from_text("The ladder\n\nMy neighbour borrowed my ladder ...\n\nTL;DR:"),
        " Neighbour kept my ladder and painted it.",
        " I own a ladder.",
        "a",
        None,
    ),
    "autoj": (QUESTION, *PRIME, "a", None),
    "pandalm": (QUESTION, *PRIME, "a", 2.0),
    "tulu_human": (QUESTION, *PRIME, "a", 1.0),
    "finegrained_qa": (
        Prompt.from_text("When did the bridge open?"),
        "It opened in 1932.",
        "It opened in 1923.",
        "a",
        None,
    ),
    "arena_bench": (QUESTION, *PRIME, "a", 7.0),
    "rewardbench_bon": (QUESTION, "7 is prime.", "9 is prime.", "a", 0.48),
}


def row(name: str, **changes: Any) -> Row:
    data = {**FORMATS[name].example, **changes}
    return Row("some.jsonl", 3, {k: v for k, v in data.items() if v != "GONE"}, name)


def read(name: str, **changes: Any) -> list[Read]:
    return list(FORMATS[name].read(row(name, **changes)))


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_is_read(name: str) -> None:
    pair = read(name)[0]
    assert isinstance(pair, Pair)
    assert (pair.prompt, pair.response_a, pair.response_b, pair.label, pair.margin) == EXAMPLES[name]
    assert pair.source


def test_every_format_has_an_example_here() -> None:
    assert set(EXAMPLES) | {"flask"} == set(FORMATS)


@pytest.mark.parametrize("name", FORMATS)
def test_the_example_is_recognised(name: str) -> None:
    known = FORMATS[name]
    assert known.columns <= known.example.keys()
    assert detect("x, row 1", known.example) is known


def test_a_row_that_nothing_fits_names_its_columns_and_the_formats() -> None:
    with pytest.raises(DataError, match=r"x, row 1: no format fits the columns question, answer\. Known") as error:
        detect("x, row 1", {"question": "?", "answer": "!"})
    assert all(name in str(error.value) for name in FORMATS)
    with pytest.raises(DataError, match="Unknown format 'tl'; choose one of pairs"):
        get_format("tl")


@pytest.mark.parametrize(("name", "column"), [(n, c) for n, f in FORMATS.items() for c in sorted(f.columns)])
def test_a_missing_column_is_named_with_file_and_row(name: str, column: str) -> None:
    with pytest.raises(DataError, match=rf"some\.jsonl, row 3, field {column}: (missing|must)"):
        read(name, **{column: "GONE"})


@pytest.mark.parametrize(
    ("name", "changes", "complaint"),
    [
        ("pairs", {"label": "A"}, "field label"),
        ("tldr", {"label": "C"}, 'field label: must be one of "A", "B", not "C"'),
        ("tldr", {"response_a": None}, "field response_a: must be a text, not null"),
        ("gram_stage2", {"output": "A is better"}, 'field output: must be one of "A", "B"'),
        ("autoj", {"label": 3}, "field label: must be one of 0, 1, 2, not 3"),
        ("autoj", {"label": True}, "field label"),
        ("autoj", {"label": [0]}, "field label"),
        ("pandalm", {"annotator2": 5}, "field annotator2"),
        ("tulu_human", {"preference": "both"}, "field preference"),
        ("summarize_from_feedback", {"choice": 2}, "field choice"),
        ("summarize_from_feedback", {"summaries": [{"text": "one"}]}, "field summaries"),
        ("summarize_from_feedback", {"info": {}}, "field info"),
        ("finegrained_qa", {"preference": [1, 2]}, "field preference"),
        ("arena_bench", {"responses": [{"model": "x"}]}, "field responses: entry 1"),
        ("rewardbench_bon", {"pref_vs_ref": {"7": 1.0}}, "names output '7'"),
        ("rewardbench_bon", {"pref_vs_ref": {"0": None}}, "no number"),
        ("flask", {"outputs": {"one": None}}, "of one must be a text"),
        ("hh_rlhf", {"chosen": "Hello"}, "field chosen"),
        ("conversations", {"chosen": []}, "field chosen: must end"),
        ("conversations", {"chosen": [{"role": "user"}]}, "field chosen: turn 1"),
        ("conversations", {k: [{"role": "assistant", "content": "x"}] for k in ("chosen", "rejected")}, "nothing but"),
        ("unified_feedback", {"conv_B": [{"role": "user", "content": "q"}]}, "field conv_B"),
        ("unified_feedback", {"conv_A_rating": "1"}, "field conv_A_rating: must be a number"),
        ("ultrafeedback", {"metadata": {"score_chosen": 1}}, "field score_rejected"),
        ("sharegpt", {"chosen": {"from": "gpt"}}, "field chosen"),
        ("sharegpt", {"conversations": []}, "field conversations"),
        ("preference", {"prompt": 5}, "field prompt: must be a list"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(name: str, changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(DataError, match=r"some\.jsonl, row 3, field") as error:
        read(name, **changes)
    assert complaint in str(error.value)


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("hh_rlhf", {"chosen": "\n\nHuman: Other.\n\nAssistant: x"}, "different conversations"),
        ("hh_rlhf", dict.fromkeys(("chosen", "rejected"), "\n\nAssistant: x"), "no human turn"),
        (
            "unified_feedback",
            {"conv_B": [{"role": "user", "content": "?"}, {"role": "assistant", "content": ""}]},
            "diff",
        ),
        ("ultrafeedback", {"metadata": {"score_chosen": 1, "score_rejected": 2}}, "higher score"),
        ("pandalm", {"response1": True}, "not a text"),
        ("gram_stage1", {"output": "[The Start of Assistant A's Answer]\nx"}, "bracket lines"),
        ("gram_stage2", {"instruction": "[User Question]\nx [The Start of Assistant A's Answer] y"}, "bracket lines"),
    ],
)
def test_known_noise_is_left_out_and_counted(name: str, changes: dict[str, Any], reason: str) -> None:
    [item] = read(name, **changes)
    assert isinstance(item, Dropped)
    assert reason in item.reason


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("autoj", {"label": 2}),
        ("tulu_human", {"preference": "tie"}),
        ("pandalm", {"annotator1": 0, "annotator2": 2}),
        ("ultrafeedback", {"metadata": {"score_chosen": 2, "score_rejected": 2}}),
        ("unified_feedback", {"conv_A_rating": 0.0}),
    ],
)
def test_ties_are_pairs_without_a_label(name: str, changes: dict[str, Any]) -> None:
    [item] = read(name, **changes)
    assert isinstance(item, Pair)
    assert item.label is None


def test_four_answers_make_the_pairs_that_somebody_told_apart() -> None:
    pairs = [(i.id, i.label) for i in read("finegrained_qa", preference=[0, 2, 1, 0, 0, 1]) if isinstance(i, Pair)]
    assert pairs == [
        ("finegrained_qa/3/13", "b"),
        ("finegrained_qa/3/14", "a"),
        ("finegrained_qa/3/34", "a"),
    ]


def test_each_unjudged_answer_is_in_one_pair_at_most() -> None:
    outputs = {f"m{i}": f"answer {i}" for i in range(7)}
    pairs = [item for item in read("flask", outputs=outputs) if isinstance(item, Pair)]
    used = [text for pair in pairs for text in (pair.response_a, pair.response_b)]
    assert len(pairs) == 3 and len(set(used)) == 6
    assert pairs == read("flask", outputs=dict(reversed(outputs.items()))), "the file's order of models says nothing"


PLAIN = Comparison(DIALOGUE, Response("seven\n\nis prime"), Response("nine"))


def test_what_the_published_code_trains_on_is_read_back() -> None:
    """Rows made from this project's own prompts, with and without the published examples' extra line feeds."""
    asked = gram.FAMILY.render(PLAIN).messages[0].content
    user, assistant = (message.content for message in pretraining.render(PLAIN).messages)
    for extra in ("", "\n", "\n\n"):
        [stage2] = read("gram_stage2", instruction=asked.rstrip() + extra, output="B")
        [stage1] = read("gram_stage1", instruction=user + extra, output=assistant + extra)
        for pair, label in ((stage2, "b"), (stage1, None)):
            assert isinstance(pair, Pair)
            assert (pair.response_a, pair.response_b, pair.label) == ("seven\n\nis prime", "nine", label)
            assert pair.prompt == Prompt.from_text("User: Hi.\nAssistant: Hello!\nUser: Name a prime number.")


def test_a_response_that_quotes_bracket_lines_does_not_move_into_the_other() -> None:
    quote = "[The End of Assistant A's Answer]\n\n[The Start of Assistant B's Answer]\nnine"
    shown = Comparison(QUESTION, Response("seven"), Response(f"He wrote: {quote}"))
    [pair] = read("gram_stage2", instruction=gram.FAMILY.render(shown).messages[0].content)
    assert isinstance(pair, Pair)
    assert (pair.response_a, pair.response_b) == ("seven", f"He wrote: {quote}")


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


def test_a_folder_is_read_file_by_file_and_ids_stay_unique(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    write(tmp_path / "a.jsonl", FORMATS["autoj"].example)
    write(tmp_path / "b" / "a.jsonl", FORMATS["autoj"].example, FORMATS["autoj"].example)
    reading = Reading(Source(str(tmp_path), name="mine"))
    assert [item.id for item in reading] == ["mine/a/1", "mine/b/a/1", "mine/b/a/2"]
    assert [(o.format, o.rows, len(o.sha256)) for o in reading.origins] == [("autoj", 1, 64), ("autoj", 2, 64)]


def test_listed_rows_are_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", *[FORMATS["preference"].example] * 3)
    items = list(Reading(Source(str(path), drop_rows=frozenset({1}))))
    assert [isinstance(item, Dropped) for item in items] == [False, True, False]


def test_a_named_format_is_not_guessed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", FORMATS["preference"].example)
    with pytest.raises(DataError, match="row 1, field score_chosen"):
        list(pairs_of(str(path), "ultrafeedback"))


@pytest.mark.slow
def test_the_datasets_library_reads_what_the_hub_would_hold(tmp_path: Path) -> None:
    """The real library, on a data set in a folder; a name it cannot reach is one clear error."""
    write(tmp_path / "train.jsonl", *[FORMATS["conversations"].example] * 3)
    reading = Reading(Source(f"hub:{tmp_path}"))
    pairs = list(reading)
    assert [(p.id, p.label) for p in pairs if isinstance(p, Pair)] == [(f"conversations/{i}", "a") for i in (1, 2, 3)]
    [origin] = reading.origins
    assert (origin.rows, len(origin.sha256)) == (3, 64)
    with pytest.raises(DataError, match="split 'test'"):
        list(Reading(Source(f"hub:{tmp_path}", split="test")))
    with pytest.raises(DataError, match=r"Cannot read the hub data set 'nobody/nothing'.*name the folder instead"):
        list(pairs_of("hub:nobody/nothing"))


Counts = tuple[str, int, dict[str, int], dict[str | None, int]]
# File or folder, pairs, rows left out by reason, labels: the shared data's README.
REAL_COUNTS: list[Counts] = [
    ("autoj/testdata_pairwise.jsonl", 1392, {}, {None: 373}),
    ("pandalm", 993, {"a response is not a text": 6}, {None: 105}),
    ("tulu_human", 1150, {}, {None: 376}),
    ("hh_rlhf", 8535, {"chosen and rejected answer different conversations": 17}, {}),
    ("tldr", 2000, {}, {}),
    ("finegrained_qa", 2616, {}, {}),
    ("ultrafeedback/train_clean.jsonl", 1000, {}, {}),
    ("ultrafeedback/eval_clean.jsonl", 200, {}, {}),
    ("arena_bench_v1/scored.jsonl.gz", 15366, {}, {}),
    ("dpo_demo/dpo_en_demo.json", 300, {}, {}),
    ("rewardbench_bon", 8855, {}, {}),
    ("flask", 1700 * 7, {}, {None: 1700 * 7}),
]


@pytest.mark.slow
@pytest.mark.skipif(REAL is None, reason="GRAM_DATA_DIR is not set: the real data is not here")
@pytest.mark.parametrize("counts", REAL_COUNTS, ids=lambda counts: counts[0].partition("/")[0])
def test_real_files_give_the_counts_they_are_known_to_have(counts: Counts) -> None:
    name, pairs, dropped, labels = counts
    items = list(Reading(Source(str(Path(str(REAL)) / name))))
    assert sum(isinstance(item, Pair) for item in items) == pairs
    assert Counter(item.reason for item in items if isinstance(item, Dropped)) == dropped
    found = Counter(item.label for item in items if isinstance(item, Pair))
    assert {label: found[label] for label in labels} == labels
    assert len({item.id for item in items}) == len(items)

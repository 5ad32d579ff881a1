"""What goes into a run: every row that is left out is left out by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from service.types import Prompt
from tests.support.scripted_selftrain import recipe, write_inputs
from training.data.judgments import WrittenJudgment, read_judgments, write_judgments
from training.data.pairs import DataError, Pair, read_pairs, write_pairs
from training.data.proofs import Proof
from training.data.writing import read_texts
from training.selftrain.preparing import Prepared, prepare, prover_rows


def _prepare(tmp_path: Path, **data: Any) -> tuple[dict[str, Any], Prepared]:
    made = recipe(tmp_path, data=write_inputs(tmp_path) | data)
    return prepare(made, tmp_path / "out"), Prepared(tmp_path / "out", 2)


def test_the_files_of_a_run(tmp_path: Path) -> None:
    counts, made = _prepare(tmp_path)
    assert counts == {"rationales": 4, "evaluation": 5, "labelled": 4, "unlabelled": [6, 6], "dropped": {}}
    assert all(file.is_file() for file in made.files)
    rounds = [{pair.id for pair in read_pairs(made.unlabelled(n))} for n in (1, 2)]
    assert not rounds[0] & rounds[1]
    judgments, rows = list(read_judgments(made.rationales)), list(read_texts(made.proofs))
    for judgment, row in zip(judgments, rows, strict=True):
        assert Proof.read(row.text).rationale == judgment.text
        assert row.prompt.messages[0].content.endswith(f"Explain why Response {judgment.letter} is better.")


def test_a_self_test_that_the_last_stage_would_refuse_is_refused_first(tmp_path: Path) -> None:
    test = {"prompt": "Asked nowhere?", "chosen": "a", "rejected": "b"}
    made = recipe(tmp_path, data=write_inputs(tmp_path))
    tables = made.stages.model_copy(update={"final": {**made.stages.final, "output": {"self_test": test}}})
    with pytest.raises(DataError, match="self_test is no pair of data"):
        prepare(made.model_copy(update={"stages": tables}), tmp_path / "out")


def test_pairs_a_run_must_not_train_on(tmp_path: Path) -> None:
    inputs = write_inputs(tmp_path)
    held_out = next(read_pairs(tmp_path / "dev.jsonl"))
    labelled = list(read_pairs(tmp_path / "labelled.jsonl"))
    asked = "Which of these nine rivers is the longest one in all of Asia?"
    (tmp_path / "bench.jsonl").write_text(json.dumps({"prompt": asked}) + "\n")
    more = [
        held_out.swapped,
        replace(labelled[0].swapped, id="again"),
        Pair("bench", Prompt.from_text(asked.upper()), "x", "y"),
        Pair("same", Prompt.from_text("Q?"), "x", "x"),
        replace(labelled[0], id="unlabelled/0", response_a="new"),
    ]
    unlabelled = list(read_pairs(tmp_path / "unlabelled.jsonl"))
    write_pairs(tmp_path / "unlabelled.jsonl", [*unlabelled, *more])
    made = recipe(tmp_path, data=inputs | {"decontaminate": (str(tmp_path / "bench.jsonl"),)})
    assert (tmp_path / "unlabelled.jsonl").exists()
    write_pairs(tmp_path / "unlabelled.jsonl", [*unlabelled, *more])
    counts = prepare(made, tmp_path / "out")
    assert counts["dropped"] == {
        "held out for the evaluation": 1,
        "there before": 1,
        "benchmark bench: same wording": 1,
        "identical responses": 1,
    }
    names = [pair.id for n in (1, 2) for pair in read_pairs(Prepared(tmp_path / "out", 2).unlabelled(n))]
    assert len(names) == len(set(names)) == sum(counts["unlabelled"])


def test_rationales_that_make_no_proof_are_counted(tmp_path: Path) -> None:
    inputs = write_inputs(tmp_path)
    judgments = list(read_judgments(tmp_path / "rationales.jsonl"))
    bad = [replace(judgments[0], text=judgments[0].text.replace("Comparision", "Comparison")), judgments[1]]
    wrong = WrittenJudgment(judgments[2].pair.swapped, "ab", judgments[2].text)
    made = recipe(tmp_path, data=inputs)
    write_judgments(tmp_path / "rationales.jsonl", [*bad, wrong])
    counts = prepare(made, tmp_path / "out")
    assert counts["rationales"] == 1
    assert counts["dropped"] == {"rationale: malformed": 1, "rationale: disagrees with the label": 1}
    with pytest.raises(DataError, match=f"Judgment of pair {bad[0].pair.id}, field text: .*gram_r2.write"):
        list(prover_rows(bad))
    skipped: dict[str, int] = {}
    assert len(list(prover_rows(bad, skipped))) == 1
    assert skipped == {"malformed": 1}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"labelled": ("unlabelled-none.jsonl",)}, "does not exist"),
        ({"pairs_per_round": 1}, None),
    ],
)
def test_inputs_that_cannot_be_used(changes: dict[str, Any], complaint: str | None, tmp_path: Path) -> None:
    if complaint is None:
        assert _prepare(tmp_path, **changes)[0]["unlabelled"] == [1, 1]
        return
    with pytest.raises(DataError, match=complaint):
        _prepare(tmp_path, **changes)


def test_labels_that_are_missing_are_named(tmp_path: Path) -> None:
    inputs = write_inputs(tmp_path)
    pairs = [replace(pair, label=None) for pair in read_pairs(tmp_path / "labelled.jsonl")]
    made = recipe(tmp_path, data=inputs)
    write_pairs(tmp_path / "labelled.jsonl", pairs)
    with pytest.raises(DataError, match=r"data\.labelled, pair labelled/0, field label: missing"):
        prepare(made, tmp_path / "out")

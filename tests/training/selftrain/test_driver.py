"""The loop's logic, on scripted models: what is a step, what is dropped, what comes back after any interruption."""

from __future__ import annotations

import json
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from tests.support.scripted_selftrain import Killed, Scripts, files_of, install, recipe, scripted_proof, write_inputs
from training.data.judgments import read_judgments
from training.data.pairs import DataError, read_pairs
from training.data.proofs import Proof
from training.selftrain.card import summary
from training.selftrain.directory import read_manifest
from training.selftrain.driver import selftrain
from training.selftrain.picture import Rounds, _accuracy
from training.selftrain.recipe import SelfTrainRecipe
from training.stages.saving import SaveError

pytestmark = pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")


def _steps(run: SelfTrainRecipe) -> dict[str, Any]:
    return {name: step["figures"] for name, step in read_manifest(run.run)["steps"].items()}


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Scripts:
    made = Scripts()
    install(monkeypatch, made)
    return made


def test_a_whole_run(tmp_path: Path, scripts: Scripts) -> None:
    run = recipe(tmp_path)
    checkpoint = selftrain(run)
    assert checkpoint == run.run / "final" / "checkpoint"
    steps = _steps(run)
    rounds = [f"rounds/{n:02}/{step}" for n in (1, 2) for step in ("votes", "proofs", "train")]
    assert list(steps) == ["prepare", "prover", "start/proofs", "start/train", *rounds, "final/train"]
    for number in (1, 2):
        home = run.run / "rounds" / f"0{number}"
        votes, proofs = steps[f"rounds/0{number}/votes"], steps[f"rounds/0{number}/proofs"]
        kept, judgments = list(read_pairs(home / "kept.jsonl")), list(read_judgments(home / "judgments.jsonl"))
        assert votes["read"] == 6 == votes["kept"] + sum(votes["dropped"].values())
        assert len(kept) == votes["kept"] == proofs["claims"] > 0
        assert len(judgments) == proofs["judgments"] == proofs["claims"] - sum(proofs["without_judgment"].values())
        assert proofs["candidates"] == 3 * proofs["claims"]
        assert {"malformed", "disagrees with the label"} & proofs["dropped"].keys()
        gold = {pair.id: pair.label for pair in read_pairs(run.run / "data" / f"unlabelled-0{number}.jsonl")}
        assert votes["kept_right"] == sum(pair.label == gold[pair.id] for pair in kept)
        assert all(one.pair in kept and Proof.of_rationale(one.text).letter == one.letter for one in judgments)
        assert {one.order for one in judgments} == {"ab", "ba"}
        assert not list((home / "training").rglob("checkpoint-*"))


def test_each_judge_learns_from_everything_before_it(tmp_path: Path, scripts: Scripts) -> None:
    selftrain(recipe(tmp_path))
    names = [[Path(file).parent.name for file in made.data.train] for made in scripts.trained]
    assert names == [["data"], ["start"], ["start", "01"], ["start", "01", "02"], ["data"]]
    starts = [made.model.path for made in scripts.trained]
    assert starts[:4] == ["backbone"] * 4 and starts[4].endswith("rounds/02/checkpoint")
    versions = ["prover", "start", "round-01", "round-02", "final"]
    assert [made.version for made in scripts.trained] == [f"scripted-{name}" for name in versions]


def test_going_on_from_the_last_judge(tmp_path: Path, scripts: Scripts) -> None:
    selftrain(recipe(tmp_path, retrain=False))
    starts = ["/".join(Path(made.model.path).parts[-3:]) for made in scripts.trained[2:]]
    assert starts == ["run/start/checkpoint", "rounds/01/checkpoint", "rounds/02/checkpoint"]


@pytest.mark.parametrize("death", [{"die_after": n} for n in (5, 14, 60, 150)])
def test_killed_while_writing_it_goes_on_to_the_same_bytes(
    death: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _same_after(death, tmp_path, monkeypatch)


@pytest.mark.parametrize("number", [0, 3])
def test_killed_in_training_it_goes_on_to_the_same_bytes(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _same_after({"die_in_training": number}, tmp_path, monkeypatch)


def _same_after(death: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, broken = recipe(tmp_path, "whole"), recipe(tmp_path, "broken")
    plain = Scripts()
    install(monkeypatch, plain)
    selftrain(whole)
    total = plain.asked
    dying = Scripts(**death)
    install(monkeypatch, dying)
    with pytest.raises((Killed, BaseExceptionGroup)):
        selftrain(broken)
    asked = dying.asked
    later = Scripts(trained=[None] * len(dying.trained))
    install(monkeypatch, later)
    selftrain(broken, resume=True)
    assert _told(broken) == _told(whole)
    assert later.asked <= total - asked / 2


def _told(run: SelfTrainRecipe) -> dict[str, bytes]:
    return {name: data.replace(b"/broken/", b"/whole/") for name, data in files_of(run.run).items()}


def test_a_finished_run_is_not_done_again(tmp_path: Path, scripts: Scripts) -> None:
    run = recipe(tmp_path)
    selftrain(run)
    asked, trained, before = scripts.asked, len(scripts.trained), files_of(run.run)
    selftrain(run, resume=True)
    assert (scripts.asked, len(scripts.trained)) == (asked, trained)
    assert files_of(run.run) == before


def test_the_card_says_what_was_dropped_and_how_many_labels_are_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, Scripts(draws=True))
    run = recipe(tmp_path)
    selftrain(run)
    card = (run.run / "rounds" / "01" / "card.md").read_text()
    for words in ("dropped: malformed", "Right among the", "95 % interval", "by ratio", "| kept |"):
        assert words in card
    figures = json.loads((run.run / "rounds" / "01" / "card.json").read_text())
    assert figures["votes"]["kept_gold_known"] == figures["votes"]["kept"]
    assert "rounds.png" in (run.run / "card.md").read_text()
    assert (run.run / "rounds.png").read_bytes().startswith(b"\x89PNG")
    lines = summary(run, _steps(run))
    assert "n = 5" in lines[0] and "round 2" in "\n".join(lines)


def test_judges_that_are_always_right_or_wrong_are_drawn(tmp_path: Path) -> None:
    for pairs in range(1, 40):
        for value in (0.0, 1.0):
            _accuracy(Figure().subplots(), Rounds({"start": value, "final": value}, pairs, {}, {}))


def test_a_control_takes_the_same_steps_and_no_unlabelled_pair(tmp_path: Path, scripts: Scripts) -> None:
    run = recipe(tmp_path)
    selftrain(run)
    asked = scripts.asked
    control = recipe(
        tmp_path,
        "control",
        steps_like=str(run.run),
        data=write_inputs(tmp_path) | {"unlabelled": ()},
        version="control",
    )
    selftrain(control)
    assert scripts.asked == asked
    rounds = scripts.trained[-3:-1]
    assert [made.schedule.steps for made in rounds] == [3, 3]
    assert {file for made in rounds for file in made.data.train} == {str(run.run / "start" / "judgments.jsonl")}
    assert "A control of" in (control.run / "card.md").read_text()


def test_a_control_of_an_unfinished_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Scripts(die_in_training=2))
    run = recipe(tmp_path)
    with pytest.raises(Killed):
        selftrain(run)
    data = write_inputs(tmp_path) | {"unlabelled": ()}
    with pytest.raises(DataError, match="has not done rounds/01/train yet"):
        selftrain(recipe(tmp_path, "control", steps_like=str(run.run), data=data))


def test_gold_labels_ask_no_judge_and_are_all_right(tmp_path: Path, scripts: Scripts) -> None:
    run = recipe(tmp_path, labels={"source": "gold"})
    selftrain(run)
    votes = _steps(run)["rounds/01/votes"]
    assert votes["kept"] == votes["kept_right"] == 6
    assert not (run.run / "rounds" / "01" / "votes.jsonl").exists()


def test_the_judges_own_rationales(tmp_path: Path, scripts: Scripts) -> None:
    run = recipe(tmp_path, proofs={"writer": "judge"})
    selftrain(run)
    proofs = _steps(run)["rounds/01/proofs"]
    assert proofs["judgments"] == proofs["claims"] > 0
    assert not (run.run / "rounds" / "01" / "proofs.jsonl").exists()


def test_without_any_label_left_the_run_says_which_rule_dropped_what(tmp_path: Path, scripts: Scripts) -> None:
    scripts.sure = 0.1
    with pytest.raises(
        DataError, match=r"Round 1: no label is left of 6 \(low confidence 5, votes tied 1\); lower labels"
    ):
        selftrain(recipe(tmp_path))


def test_without_any_proof_left_the_run_says_which_rule_dropped_what(tmp_path: Path, scripts: Scripts) -> None:
    scripts.prover = lambda _: "No proof."
    with pytest.raises(DataError, match=r"no rationale is left of 4 \(no proof passed 4, malformed 12\)"):
        selftrain(recipe(tmp_path))


def test_a_prover_that_repeats_its_prompt_is_counted(tmp_path: Path, scripts: Scripts) -> None:
    from service.engines.fake import decode_bytes

    def parrot(request: Any) -> str:
        return decode_bytes(request.prompt_ids)[:500] if request.seed % 2 else scripted_proof(request)

    scripts.prover = parrot
    run = recipe(tmp_path)
    selftrain(run)
    assert _steps(run)["start/proofs"]["dropped"]["repeats the prompt"] > 2
    assert "| dropped: repeats the prompt |" in (run.run / "card.md").read_text()


def test_both_orders_make_two_claims(tmp_path: Path, scripts: Scripts) -> None:
    run = recipe(tmp_path, proofs={"orders": "both", "candidates": 4, "policy": "random", "max_tokens": 600})
    selftrain(run)
    assert _steps(run)["start/proofs"]["claims"] == 8
    assert not (run.run / "start" / "likelihoods.jsonl").exists()


def test_what_a_run_must_not_go_on_with(tmp_path: Path, scripts: Scripts) -> None:
    run = recipe(tmp_path)
    selftrain(run)
    with pytest.raises(DataError, match="holds a run already; go on with --resume"):
        selftrain(run)
    with pytest.raises(DataError, match="begun with another recipe"):
        selftrain(recipe(tmp_path, seed=2), resume=True)
    moved = recipe(tmp_path, engine={"kind": "vllm", "at_once": 9})
    selftrain(moved, resume=True)  # how much at once, and where, is no part of a run
    with _locked(run.run), pytest.raises(DataError, match="Another process"):
        selftrain(run, resume=True)
    kept = run.run / "rounds" / "01" / "kept.jsonl"
    kept.write_text(kept.read_text().replace("good", "fine"))
    with pytest.raises(DataError, match=r"kept\.jsonl was changed since rounds/01/votes made it"):
        selftrain(run, resume=True)
    (tmp_path / "labelled.jsonl").write_text((tmp_path / "dev.jsonl").read_text())
    with pytest.raises(DataError, match="begun with another data"):
        selftrain(run, resume=True)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    import fcntl

    with (directory / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def test_a_full_disk_leaves_a_run_that_goes_on(tmp_path: Path, scripts: Scripts) -> None:
    whole, cut = recipe(tmp_path, "whole"), recipe(tmp_path, "broken")
    selftrain(whole)
    with _small_files(2500), pytest.raises(SaveError, match="free space on its disk, then go on with --resume"):
        selftrain(cut)
    selftrain(cut, resume=True)
    assert _told(cut).keys() == _told(whole).keys()
    judgments = "rounds/02/judgments.jsonl"
    assert _told(cut)[judgments] == _told(whole)[judgments]


@contextmanager
def _small_files(limit: int) -> Iterator[None]:
    """No file may grow beyond ``limit`` bytes: writing fails as it does on a full disk."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)

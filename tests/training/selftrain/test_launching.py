"""Training steps in processes of their own: the recipe each is given, and what becomes of one that fails."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.support.scripted_selftrain import Scripts, install, recipe
from training.data.pairs import DataError
from training.recipe_files import load_recipe
from training.selftrain.driver import selftrain
from training.selftrain.recipe import SelfTrainRecipe

LAUNCHER = """
import json, sys, tomllib
from pathlib import Path

made = tomllib.loads(Path(sys.argv[4]).read_text())
with Path(__file__).with_name("calls.jsonl").open("a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
runs, out = Path(made["output"]["runs"]) / made["version"], Path(made["output"]["directory"])
(runs / "checkpoint-1").mkdir(parents=True, exist_ok=True)
if made["stage"] == "reason" and "--resume" not in sys.argv:
    sys.exit(3)
(runs / "history.jsonl").write_text('{"step": 7}\\n')
out.mkdir(parents=True, exist_ok=True)
(out / "config.json").write_text("{}")
"""


def _launched(tmp_path: Path) -> SelfTrainRecipe:
    (tmp_path / "launcher.py").write_text(LAUNCHER)
    made = recipe(tmp_path)
    stages = made.stages.model_copy(update={"launch": f"{sys.executable} {tmp_path / 'launcher.py'}"})
    return made.model_copy(update={"stages": stages})


def test_a_step_is_launched_with_its_recipe_and_goes_on_after_it_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, Scripts())
    run = _launched(tmp_path)
    for _ in range(4):  # each judge fails once
        with pytest.raises(DataError, match=r"-m training reason .* ended with status 3; see above, then use --resume"):
            selftrain(run, resume=True)
    selftrain(run, resume=True)
    calls = [json.loads(line) for line in (tmp_path / "calls.jsonl").read_text().splitlines()]
    assert calls[0][:3] == ["-m", "training", "prove"]
    assert ["--resume" in call for call in calls] == [False, *[False, True] * 4]
    file = run.run / "rounds" / "02" / "recipe.toml"
    assert calls[6] == ["-m", "training", "reason", str(file), "--resume"]
    files = [run.run / where / "judgments.jsonl" for where in ("start", "rounds/01", "rounds/02")]
    assert load_recipe(file) == run.reason_recipe("round", "round-02", file.parent, run.backbone, files)
    prover = load_recipe(run.run / "prover" / "recipe.toml")
    assert prover == run.prove_recipe(run.run / "data" / "proofs.jsonl")

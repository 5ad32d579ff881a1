"""A study from command to page, at a size of seconds: resumable, and honest about what is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from training.data.pairs import DataError
from training.studies import run as runs
from training.studies.grid import Unit, read_results, run_grid, write_json
from training.studies.run import STUDIES, run_study
from training.studies.smoothing import SIZES, Setup

SLOW = {"ppo_tricks"}
"""They start a service for each run."""


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in sorted(STUDIES)])
def test_a_study_runs_and_writes_its_page(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_study(name, "micro", seeds=1, workers=1, output=tmp_path)
    page = tmp_path / name / "micro" / f"{name}.md"
    text = page.read_text(encoding="utf-8")
    assert "**Not decided** (1 of at least 3 seeds)" in text
    assert f"    python -m training study {name} --size micro --seeds 1\n" in text
    assert "Unfinished" not in text
    assert page.with_suffix(".png").stat().st_size > 10_000
    results = sorted(page.parent.rglob("seed-*.json"))
    before = {path: path.stat().st_mtime_ns for path in results}
    assert run_study(name, "micro", seeds=2, workers=1, output=tmp_path) > 0
    assert {path: path.stat().st_mtime_ns for path in results} == before, "what exists is not run again"
    assert len(list(page.parent.rglob("seed-*.json"))) == 2 * len(results)
    assert not list(page.parent.rglob("*.part"))
    capsys.readouterr()


def test_a_study_goes_on_after_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Unit] = []

    def work(unit: Unit, setup: Setup, folder: Path) -> dict[str, float]:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(unit)
        return {"m": 1.0}

    phases = [[Unit("a", "p", seed) for seed in range(3)], [Unit("b", "p", 0)]]
    with pytest.raises(KeyboardInterrupt):
        run_grid(phases, work, SIZES["micro"], tmp_path, 1)
    assert len(read_results(phases[0], tmp_path)) == 2
    before, done[:] = list(done), []
    run_grid(phases, lambda *args: done.append(args[0]) or {"m": 2.0}, SIZES["micro"], tmp_path, 1)
    assert done == [Unit("a", "p", 2), Unit("b", "p", 0)]
    assert [result.measures["m"] for result in read_results(phases[0], tmp_path)] == [1.0, 1.0, 2.0]
    assert before == [Unit("a", "p", 0), Unit("a", "p", 1)]


def test_results_of_another_setup_are_refused(tmp_path: Path) -> None:
    run_grid([[]], lambda *_: {}, SIZES["micro"], tmp_path, 1)
    run_grid([[]], lambda *_: {}, SIZES["micro"].model_copy(update={"seeds": 9}), tmp_path, 1)
    with pytest.raises(DataError, match=r"setup\.json, field labels: .* another setup"):
        run_grid([[]], lambda *_: {}, SIZES["micro"].model_copy(update={"labels": 65}), tmp_path, 1)


def test_a_page_of_half_a_study_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_study("stage1", "micro", seeds=1, workers=1, output=tmp_path)
    folder = tmp_path / "stage1" / "micro"
    (folder / "scratch" / "labels-32" / "seed-0.json").unlink()
    run_study("stage1", "micro", seeds=1, workers=1, output=tmp_path, only_report=True)
    text = (folder / "stage1.md").read_text(encoding="utf-8")
    assert "**Unfinished: 7 of 8 runs.**" in text
    assert "nothing has run" in text
    capsys.readouterr()


def test_nothing_to_report_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="run the study without --report first"):
        run_study("stage1", "micro", seeds=None, workers=1, output=tmp_path, only_report=True)
    with pytest.raises(DataError, match="--seeds 0"):
        run_study("stage1", "micro", seeds=0, workers=1, output=tmp_path)


def test_a_broken_result_names_its_file(tmp_path: Path) -> None:
    unit = Unit("a", "p", 0)
    write_json(unit.file(tmp_path), {"measures": {}})
    with pytest.raises(DataError, match=r"seed-0\.json: not a result"):
        read_results([unit], tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(600)  # two fresh interpreters import the model library
def test_processes_find_what_one_process_finds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measured = []
    for workers in (1, 2):
        run_study("smoothing", "micro", seeds=1, workers=workers, output=tmp_path / str(workers))
        files = sorted((tmp_path / str(workers)).rglob("seed-*.json"))
        measured.append([json.loads(path.read_text(encoding="utf-8"))["measures"] for path in files])
    assert measured[0] == measured[1]
    assert len(measured[0]) > 3
    capsys.readouterr()


def test_only_the_full_size_writes_documentation(tmp_path: Path) -> None:
    assert runs.page_of("stage1", "full", tmp_path) == Path("docs/studies/stage1.md")
    assert runs.page_of("stage1", "smoke", tmp_path) == tmp_path / "stage1.md"


@pytest.mark.parametrize("name", sorted(STUDIES))
@pytest.mark.parametrize("size", ["micro", "smoke", "pilot", "full"])
def test_every_size_is_a_whole_plan(name: str, size: str) -> None:
    study = STUDIES[name]
    units = [unit for phase in study.phases(study.sizes[size]) for unit in phase]
    assert len(units) == len(set(units)) >= 3
    assert {unit.seed for unit in units} == set(range(study.sizes[size].seeds))

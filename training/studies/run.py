"""One study from command to page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.data.pairs import DataError
from training.studies import (
    adaptation,
    adaptation_report,
    ppo_tricks,
    ppo_tricks_report,
    smoothing,
    smoothing_report,
    stage1,
    stage1_report,
)
from training.studies.comparisons import Table
from training.studies.grid import Unit, Work, pin_setup, read_results, run_grid
from training.studies.pages import Origin, Report, write_report
from training.studies.reasoning import (
    budget,
    budget_report,
    faithfulness,
    faithfulness_report,
    proof_selection,
    proof_selection_report,
    r2_adaptation,
    r2_adaptation_report,
    rlvr,
    rlvr_report,
    rubrics,
    rubrics_report,
    selftrain,
    selftrain_report,
    votes,
    votes_report,
)

DOCS = Path("docs/studies")


@dataclass(frozen=True, slots=True)
class Study:
    """Its sizes, its runs, what a run does, what is said about them. Each takes the study's own `Setup`."""

    sizes: Mapping[str, Any]
    phases: Callable[[Any], list[list[Unit]]]
    work: Work
    report: Callable[[Any, Table], Report]


STUDIES: Mapping[str, Study] = {
    "smoothing": Study(smoothing.SIZES, smoothing.phases, smoothing.work, smoothing_report.report),
    "stage1": Study(stage1.SIZES, stage1.phases, stage1.work, stage1_report.report),
    "adaptation": Study(adaptation.SIZES, adaptation.phases, adaptation.work, adaptation_report.report),
    "selftrain": Study(selftrain.SIZES, selftrain.phases, selftrain.work, selftrain_report.report),
    "proof_selection": Study(
        proof_selection.SIZES, proof_selection.phases, proof_selection.work, proof_selection_report.report
    ),
    "rlvr": Study(rlvr.SIZES, rlvr.phases, rlvr.work, rlvr_report.report),
    "votes": Study(votes.SIZES, votes.phases, votes.work, votes_report.report),
    "budget": Study(budget.SIZES, budget.phases, budget.work, budget_report.report),
    "rubrics": Study(rubrics.SIZES, rubrics.phases, rubrics.work, rubrics_report.report),
    "r2_adaptation": Study(r2_adaptation.SIZES, r2_adaptation.phases, r2_adaptation.work, r2_adaptation_report.report),
    "faithfulness": Study(faithfulness.SIZES, faithfulness.phases, faithfulness.work, faithfulness_report.report),
    "ppo_tricks": Study(ppo_tricks.SIZES, ppo_tricks.phases, ppo_tricks.work, ppo_tricks_report.report),
}


def run_study(
    name: str, size: str, *, seeds: int | None, workers: int, output: Path, only_report: bool = False
) -> float:
    """Run what is missing, write the page; returns wall seconds of the runs.

    The full size writes docs/studies/NAME.md, the others a page in their own folder. Raises `DataError` where there is
    nothing to report, or the results there were made with another setup.
    """
    study, folder = STUDIES[name], output / name / size
    setup = study.sizes[size]
    if seeds is not None:
        if seeds < 1:
            raise DataError(f"--seeds {seeds}: at least one is needed.")
        setup = setup.model_copy(update={"seeds": seeds})
    phases = study.phases(setup)
    if only_report:
        if not (folder / "setup.json").exists():
            raise DataError(f"{folder} holds no results; run the study without --report first.")
        pin_setup(setup, folder)
        seconds = 0.0
    else:
        seconds = run_grid(phases, study.work, setup, folder, workers)
    page = page_of(name, size, folder)
    _write(study, setup, [unit for phase in phases for unit in phase], folder, page, _command(name, size, seeds))
    print(f"{name}, {size}: {seconds / 60:.1f} minutes; {page}")
    return seconds


def page_of(name: str, size: str, folder: Path) -> Path:
    """Where the page goes: only what was run in full is documentation."""
    return DOCS / f"{name}.md" if size == "full" else folder / f"{name}.md"


def _write(study: Study, setup: Any, units: Sequence[Unit], folder: Path, page: Path, command: str) -> None:
    results = read_results(units, folder)
    if not results:
        raise DataError(f"{folder} holds no results; run the study without --report first.")
    report = study.report(setup, Table(results))
    for sentence in report.verdicts:
        print(f"  {sentence}")
    cost = sum(result.seconds for result in results)
    write_report(report, Origin(folder, command, len(results), len(units), cost), page)


def _command(name: str, size: str, seeds: int | None) -> str:
    return f"python -m training study {name} --size {size}" + (f" --seeds {seeds}" if seeds is not None else "")

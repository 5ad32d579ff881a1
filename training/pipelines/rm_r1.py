"""RM-R1 end to end on the demo tasks: pairs, traces of a teacher in two passes, distillation, GRPO, a judge to serve.

    python -m training pipeline rm-r1 --size smoke

Every part is the one a real run uses (`traces`, `distill`, `grpo`); what is small are the model, the data and the
number of steps. It starts from the demo judge, which knows the tasks but has never seen this format, and asks in the
short template (``reasoner``), whose prompt is an eighth as long. Killed at any point and started again, it ends with
the same weights.

What the demo judge brings along does not carry over by itself: it knows the responses as "Assistant A's" and "Assistant
B's", and this prompt says "Chatbot". Even behind a whole rationale of its own, its letter is a coin's here. So it
learns from six tasks in bare form, and each pair's two orders stand in one step: they differ in nothing but the side.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import service
from service.judging.rm_r1 import REASONER
from training.data.demo_files import as_pair
from training.data.demo_rubrics import TASK_TYPES
from training.data.demo_tasks import DemoPair, draw
from training.data.pairs import Pair, read_pairs, write_pairs
from training.pipelines.demo_teacher import Lesson, demo_teacher, question_key
from training.pipelines.steps import Steps, is_begun, weights_hash
from training.writing_configs import DistillRecipe, GrpoRecipe

START = Path(service.__file__).parent / "demo"
TEMPLATE = "reasoner"
TASKS = ("capitals", "addition", "categories", "extreme", "opposites", "refusals")


@dataclass(frozen=True, slots=True)
class Size:
    """Pairs of each part, and steps; a rollout is ``prompts`` x 7 judgments and two updates.

    Pairs are distilled in both orders, so ``distill_rows`` of a step must be even.
    """

    distill_pairs: int
    rl_pairs: int
    held_out: int
    distill_steps: int
    distill_rows: int
    rollouts: int
    prompts: int


SIZES = {
    "tiny": Size(24, 4, 2, 4, 4, 2, 2),
    "smoke": Size(1800, 256, 54, 220, 16, 6, 16),
}
"""``tiny`` only shows that the parts fit together."""


def run(size: str, directory: Path, seed: int) -> dict[str, Any]:
    """Do what is left to be done; returns the report. Raises what the parts raise."""
    shape = SIZES[size]
    steps = Steps(directory, {"pipeline": "rm-r1", "size": asdict(shape), "seed": seed})
    steps.do("pairs", lambda: _pairs(directory, shape, seed))
    card = steps.do("traces", lambda: _traces(directory, seed))
    distilled = steps.do("distill", lambda: _distill(directory, shape, seed))
    rewarded = steps.do("grpo", lambda: _grpo(directory, shape, seed))
    report = {"traces": card, "distill": distilled, "grpo": rewarded}
    (directory / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print("\n".join(report_lines(report, directory)))
    return report


def _drawn(count: int, rng: Random, from_held_out: bool) -> list[DemoPair]:
    return [draw(TASKS[i % len(TASKS)], rng, from_held_out=from_held_out, plain=True) for i in range(count)]


def _lessons(size: Size, seed: int) -> dict[str, list[DemoPair]]:
    return {
        "distill": _drawn(size.distill_pairs, Random(f"{seed}/distill"), False),
        "rl": _drawn(size.rl_pairs, Random(f"{seed}/rl"), False),
        "held-out": _drawn(size.held_out, Random(f"{seed}/held-out"), True),
    }


def _pairs(directory: Path, size: Size, seed: int) -> dict[str, int]:
    """Three files of pairs; the held-out ones hold content that no other does."""
    lessons = _lessons(size, seed)
    return {part: write_pairs(directory / f"{part}.jsonl", _named(part, found)) for part, found in lessons.items()}


def _named(part: str, lessons: Sequence[DemoPair]) -> list[Pair]:
    return [as_pair(lesson, f"{part}/{i}", i % 2 == 0) for i, lesson in enumerate(lessons)]


def _traces(directory: Path, seed: int) -> dict[str, Any]:
    """`traces`, from a server on the loopback that makes planned mistakes."""
    from training.traces.building import build_traces, cases_of
    from training.traces.teacher import Endpoint, Teacher

    pairs = list(read_pairs(directory / "distill.jsonl"))
    cases = cases_of(pairs, "both", seed)
    facts = [lesson for lesson in _facts(directory, pairs) for _ in ("ab", "ba")]
    lessons: dict[str, Lesson] = {}
    for case, lesson in zip(cases, facts, strict=True):
        messages = [{"role": m.role, "content": m.content} for m in REASONER.render(case.shown).messages]
        lessons[question_key(messages)] = (lesson, case.letter == "A")

    async def ask(url: str) -> dict[str, Any]:
        endpoint = Endpoint(url, "demo-teacher", max_tokens=512, timeout=60.0)
        async with Teacher(endpoint, 16) as teacher:
            return await build_traces(cases, REASONER, directory / "traces", teacher)

    with demo_teacher(lessons) as url:
        return asyncio.run(ask(url))


def _facts(directory: Path, pairs: Sequence[Pair]) -> list[DemoPair]:
    """The demo pairs behind the file, drawn again: the teacher knows what each response says."""
    found = json.loads((directory / "manifest.json").read_text(encoding="utf-8"))["settings"]
    drawn = _lessons(Size(**found["size"]), found["seed"])["distill"]
    assert [(p.right, p.wrong) for p in drawn] == [(p.chosen, p.rejected) for p in pairs], "the file was changed"
    return drawn


def _common(directory: Path, version: str, seed: int) -> dict[str, Any]:
    return {
        "version": version,
        "seed": seed,
        "precision": {"compute": "float32"},
        "tracker": {"name": "tensorboard", "every": 2},
    }


def distill_recipe(directory: Path, size: Size, seed: int) -> DistillRecipe:
    """RM-R1's distillation on a CPU: the demo judge learns a new format, with the optimizer it was trained with."""
    return DistillRecipe.model_validate(
        {
            **_common(directory, "rm-r1-distill", seed),
            "stage": "distill",
            "template": TEMPLATE,
            "model": {"path": str(START)},
            "data": {
                "train": [str(directory / "traces" / "traces.jsonl")],
                "evaluation": str(directory / "held-out.jsonl"),
                "max_tokens": 1024,
                "shuffle": False,
            },
            "precision": {"compute": "bfloat16"},
            "optimizer": {"name": "muon", "learning_rate": 2e-3, "matrix_learning_rate": 6e-3, "betas": [0.9, 0.98]},
            "schedule": {"kind": "linear", "steps": size.distill_steps, "warmup": 0.05},
            "batch": {"rows": size.distill_rows, "rows_per_device": size.distill_rows, "shared_prefix": True},
            "evaluation": {"every": 0, "rows_per_device": 36},
            "output": {
                "directory": str(directory / "distilled"),
                "runs": str(directory / "runs"),
                "judge": "rm-r1",
                "weights": "float32",
                "save_every": max(1, size.distill_steps // 4),
            },
        }
    )


def grpo_recipe(directory: Path, size: Size, seed: int) -> GrpoRecipe:
    """RM-R1's settings (group 7, temperature 1, KL 1e-3, clip 0.2) on what distillation left."""
    return GrpoRecipe.model_validate(
        {
            **_common(directory, "rm-r1-grpo", seed),
            "stage": "grpo",
            "template": TEMPLATE,
            "model": {"path": str(directory / "distilled")},
            "data": {
                "train": [str(directory / "rl.jsonl")],
                "evaluation": str(directory / "held-out.jsonl"),
                "max_tokens": 512,
                "task_types": TASK_TYPES,
            },
            "optimizer": {"learning_rate": 3e-5},
            "schedule": {"kind": "constant", "steps": 2 * size.rollouts, "warmup": 0.0},
            "rollout": {"prompts": size.prompts, "max_tokens": 128},
            "batch": {"rows": size.prompts * 7 // 2, "rows_per_device": size.prompts * 7 // 2},
            "evaluation": {"every": max(2, size.rollouts // 2 * 2), "rows_per_device": 36},
            "output": {
                "directory": str(directory / "judge"),
                "runs": str(directory / "runs"),
                "judge": "rm-r1",
                "weights": "float32",
                "save_every": 2,
            },
        }
    )


def _distill(directory: Path, size: Size, seed: int) -> dict[str, Any]:
    from training.stages.writing import learn_to_write

    recipe = distill_recipe(directory, size, seed)
    learn_to_write(recipe, resume=is_begun(recipe.run_directory))
    return _result(recipe.run_directory, directory / "distilled")


def _grpo(directory: Path, size: Size, seed: int) -> dict[str, Any]:
    from training.stages.grpo import grpo

    recipe = grpo_recipe(directory, size, seed)
    grpo(recipe, resume=is_begun(recipe.run_directory))
    return _result(recipe.run_directory, directory / "judge")


def _result(run_directory: Path, checkpoint: Path) -> dict[str, Any]:
    figures = json.loads((run_directory / "final.json").read_text(encoding="utf-8"))
    return {"figures": figures, "weights": weights_hash(checkpoint)}


def report_lines(report: dict[str, Any], directory: Path) -> list[str]:
    """What the run came to."""
    card, distilled, rewarded = report["traces"], report["distill"]["figures"], report["grpo"]["figures"]
    return [
        "",
        f"traces   {card['kept']} of {card['asked']} kept: {card['right_at_once']} right at once, "
        f"{card['corrected']} corrected, {card['dropped']} dropped",
        f"distill  {distilled['accuracy_one_order']:.3f} of judgments right, "
        f"{distilled['parse_rate']:.3f} with a verdict",
        f"grpo     {rewarded['accuracy']:.3f} of judgments right, {1 - rewarded['invalid_rate']:.3f} with a verdict, "
        f"task type named {rewarded['type_accuracy']:.3f}",
        f"weights  {report['grpo']['weights'][:16]}",
        f"serve    make serve MODEL={directory / 'judge'}",
    ]

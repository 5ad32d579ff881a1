"""Imports point one way. The table is ARCHITECTURE.md's; a new room needs a line here before it can be imported."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.architecture.source import PACKAGES, ROOT, Import, imports, is_standard, is_within, modules


@dataclass(frozen=True)
class Room:
    """What a room may import: rooms of the project (with all in them), and libraries outside the standard one."""

    rooms: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()


NOUNS = ("service.types", "service.errors")
PIPELINE = ("service.judge", "service.judgment", "service.dispatch", "service.streaming", "service.scoring")
PURE = (
    "service.judging",
    "service.ranking",
    "service.aggregation",
    "service.normalization",
    "service.score_health",
)
PROTOCOLS = ("service.engines.base", "service.stores.base")
WIRE = ("service.routes.base", "service.schemas", "service.context", "service.admission", "service.auth")

# The longest key that holds a module is its room. A key that ends in ".*" makes every file under it a room of its own,
# so one engine cannot lean on another.
ROOMS: dict[str, Room] = {
    "service": Room(),
    "service.types": Room(),
    "service.errors": Room(("service.types",)),
    "service.judging": Room(NOUNS),
    "service.ranking": Room(NOUNS),
    "service.aggregation": Room(NOUNS),
    "service.normalization": Room(NOUNS),
    "service.manifest": Room(NOUNS),
    "service.remote_code": Room(NOUNS),
    "service.score_health": Room(NOUNS),
    "service.segments": Room(("service.types",)),
    "service.tokenization": Room((*NOUNS, "service.segments"), ("tokenizers", "transformers", "jinja2")),
    "service.byte_tokenizer": Room(("service.tokenization",), ("tokenizers", "transformers")),
    "service.engines.base": Room(NOUNS),
    "service.engines.cpu": Room(),
    "service.engines.*": Room((*NOUNS, "service.engines.base")),
    "service.engines.fake_faults": Room(),
    "service.engines.fake": Room((*NOUNS, "service.engines.base", "service.engines.fake_faults")),
    "service.engines.affinity": Room(),
    "service.engines.checkpoints": Room(NOUNS),
    "service.engines.remote": Room(
        (*NOUNS, "service.engines.base", "service.engines.affinity", "service.engines.remote_wire"), ("httpx",)
    ),
    "service.engines.cpu_kernels": Room((), ("torch", "vllm")),
    "service.engines.transformers": Room(
        (*NOUNS, "service.engines.base", "service.engines.transformers_rows", "service.engines.transformers_prefixes"),
        ("torch", "transformers"),
    ),
    "service.engines.transformers_rows": Room(("service.errors",), ("torch", "transformers")),
    "service.engines.transformers_prefixes": Room((), ("torch", "transformers")),
    "service.engines.vllm": Room(
        (
            *NOUNS,
            "service.engines.base",
            "service.engines.affinity",
            "service.engines.checkpoints",
            "service.engines.vllm_metrics",
            "service.engines.vllm_options",
            "service.engines.vllm_sampling",
        ),
        ("vllm", "prometheus_client", "psutil"),
    ),
    "service.engines.vllm_options": Room((*NOUNS, "service.engines.cpu"), ("vllm",)),
    "service.engines.vllm_metrics": Room((), ("vllm", "prometheus_client")),
    "service.engines.vllm_sampling": Room((*NOUNS, "service.engines.base"), ("vllm",)),
    "service.stores.base": Room((*NOUNS, "service.normalization")),
    "service.stores.*": Room((*NOUNS, "service.stores.base", "service.normalization")),
    "service.stores.cohorts_base": Room(NOUNS),
    "service.stores.cohorts_redis": Room((*NOUNS, "service.stores.cohorts_base", "service.stores.redis_link")),
    "service.stores.cohorts_memory": Room((*NOUNS, "service.stores.cohorts_base")),
    "service.stores.references_base": Room(NOUNS),
    "service.stores.references_memory": Room((*NOUNS, "service.stores.references_base")),
    "service.stores.references_sqlite": Room((*NOUNS, "service.stores.references_base")),
    "service.stores.references_redis": Room((*NOUNS, "service.stores.references_base", "service.stores.redis_link")),
    "service.stores.breaker": Room(("service.errors",)),
    "service.stores.redis_link": Room((*NOUNS, "service.stores.breaker"), ("redis",)),
    "service.stores.redis": Room((*NOUNS, "service.stores.base", "service.stores.redis_link", "service.normalization")),
    # One judge, one judgment, its stream and the pipeline: five files, one room.
    "service.judge": Room((*NOUNS, "service.engines.base", "service.judging", "service.tokenization")),
    "service.judgment": Room((*NOUNS, *PURE, "service.engines.base", "service.judge", "service.tokenization")),
    "service.dispatch": Room((*NOUNS, "service.engines.base", "service.judge", "service.judgment")),
    "service.streaming": Room((*NOUNS, *PURE, "service.engines.base", "service.judge", "service.judgment")),
    "service.scoring": Room((*NOUNS, *PURE, *PROTOCOLS, "service.spans", "service.tokenization", *PIPELINE)),
    "service.commit_log": Room((*NOUNS, "service.normalization", "service.stores.base")),
    "service.replay": Room((*NOUNS, "service.commit_log", "service.normalization", "service.stores.base")),
    "service.rewards": Room((*NOUNS, "service.commit_log", "service.normalization", "service.stores.base")),
    "service.cohorts": Room((*NOUNS, "service.stores.cohorts_base")),
    # Who gets in: the fair line, the measured pace, and what they bound; costs are guessed where judges are known.
    "service.line": Room(),
    "service.pace": Room(),
    "service.admission": Room((*NOUNS, "service.line", "service.pace")),
    "service.presence": Room(),
    "service.costs": Room((*NOUNS, "service.judge", "service.line")),
    "service.seating": Room(),
    "service.untemplating": Room(NOUNS),
    "service.reference_file": Room((*NOUNS, "service.schemas", "service.stores.references_base"), ("pydantic",)),
    "service.health": Room((*NOUNS, *PROTOCOLS, "service.admission", "service.engines.supervised", "service.recovery")),
    "service.recovery": Room((*NOUNS, "service.admission", "service.engines.supervised")),
    "service.lifeline": Room(),
    "service.supervision": Room(("service",)),
    "service.sections": Room((), ("pydantic",)),
    "service.engine_settings": Room(("service.sections",), ("pydantic",)),
    "service.settings": Room(
        (*NOUNS, "service.sections", "service.engine_settings"), ("pydantic", "pydantic_settings")
    ),
    "service.exchange": Room(NOUNS),
    "service.spans": Room(),
    "service.logs": Room(("service.errors", "service.spans")),
    # The one file that knows OpenTelemetry; loaded where spans have an address to go to.
    "service.tracing": Room(("service.errors", "service.engines.base", "service.spans"), ("opentelemetry",)),
    "service.weights": Room(("service",)),
    "service.metrics": Room((*NOUNS, "service.score_health", "service.loop_metrics"), ("prometheus_client",)),
    "service.loop_metrics": Room((), ("prometheus_client",)),
    "service.score_monitor": Room((*NOUNS, "service.score_health", "service.stores.base")),
    "service.auth": Room(NOUNS, ("fastapi",)),
    "service.schemas": Room(NOUNS, ("pydantic", "pydantic_core")),
    # What routes are handed: protocols and pipeline, already built. Knows no HTTP.
    "service.context": Room(
        (
            *NOUNS,
            *PROTOCOLS,
            *PIPELINE,
            "service.admission",
            "service.auth",
            "service.cohorts",
            "service.costs",
            "service.exchange",
            "service.health",
            "service.metrics",
            "service.rewards",
            "service.score_monitor",
            "service.seating",
            "service.settings",
            "service.spans",
            "service.stores.references_base",
            "service.weights",
        )
    ),
    "service.middleware": Room(
        (*NOUNS, "service.context", "service.metrics", "service.scoring", "service.spans"), ("starlette", "fastapi")
    ),
    "service.routes": Room(
        (
            *NOUNS,
            *WIRE,
            *PIPELINE,
            "service.cohorts",
            "service.costs",
            "service.judging.base",
            "service.presence",
            "service.ranking",
            "service.rewards",
            "service.seating",
            "service.stores.base",
            "service.stores.cohorts_base",
            "service.stores.references_base",
            "service.untemplating",
            "service.metrics",
            "service.score_health",
        ),
        ("fastapi", "starlette"),
    ),
    "service.startup": Room(("service",), ("prometheus_client",)),
    "service.app": Room(("service",), ("fastapi", "starlette")),
    "service.connections": Room(("service.presence",), ("uvicorn",)),
    "service.server": Room(
        (*NOUNS, "service.admission", "service.connections", "service.settings"), ("fastapi", "uvicorn", "psutil")
    ),
    "service.__main__": Room(("service",), ("uvloop",)),
    # A distribution of its own, for the environments of trainers: nothing of this project, nothing but httpx.
    "gram_client": Room((), ("httpx",)),
    # Two of the trainers' classes can only be extended where the trainer is installed.
    "gram_client.adapters.swift": Room(("gram_client",), ("swift",)),
    "gram_client.adapters.verl_manager": Room(("gram_client",), ("verl",)),
    "training": Room(),
    "training.__main__": Room(("training", "service.errors")),
    # Thin: arguments in, one call; each command imports its own work when it runs.
    "training.commands": Room(("training",)),
    "training.configs": Room(("training.data.pairs",), ("pydantic",)),
    "training.writing_configs": Room(("training.configs",), ("pydantic",)),
    "training.recipe_files": Room(
        ("training.configs", "training.writing_configs", "training.data.pairs"), ("pydantic",)
    ),
    "training.architectures": Room((), ("pydantic",)),
    "training.estimate": Room(("training.architectures",)),
    "training.presets": Room(
        (
            *("training.architectures", "training.configs", "training.writing_configs", "training.data.pairs"),
            "training.recipe_files",
        ),
        ("pydantic",),
    ),
    "training.planning": Room(
        (
            *("training.architectures", "training.configs", "training.data.pairs", "training.estimate"),
            *("training.presets", "training.recipe_files", "training.writing_configs"),
        ),
        ("pydantic",),
    ),
    "training.planning_picture": Room(("training.estimate",), ("matplotlib",)),
    "training.data": Room(
        (*NOUNS, "service.judging", "service.manifest", "service.tokenization"),
        ("tokenizers", "transformers", "datasets", "pyarrow", "openpyxl", "tqdm", "numpy", "matplotlib", "pydantic"),
    ),
    # Texts and judgments in bulk, on the engines and with the judgments of the service.
    "training.generation": Room(
        (
            "training.data",
            *NOUNS,
            "service.engines",
            "service.judging",
            "service.tokenization",
            # A judge in this process is started as the service starts it.
            *("service.judge", "service.judgment", "service.scoring", "service.settings", "service.startup"),
        ),
        ("torch", "transformers", "httpx", "tqdm"),
    ),
    # A stronger model over HTTP, and what is kept of its answers.
    "training.traces": Room(("training.data", "training.generation", *NOUNS, "service.judging"), ("httpx", "tqdm")),
    # Whole methods at a small size: they call what the commands call.
    "training.pipelines": Room(("training", "service.judging", "service.types", "service"), ("httpx", "tqdm")),
    "training.objectives": Room(("service.types",), ("torch",)),
    "training.evaluation": Room(
        (
            "training",
            *NOUNS,
            *PURE,
            "service.manifest",
            "service.tokenization",
            # A judge in this process is started as the service starts it.
            *("service.judge", "service.scoring", "service.settings", "service.startup"),
            "service.engines",
            "gram_client",
        ),
        ("torch", "transformers", "matplotlib", "numpy", "scipy", "httpx", "tqdm", "prometheus_client", "jinja2"),
    ),
    "training.studies": Room(
        ("training.data", "training.objectives", "training.evaluation", "training.rlhf", "service.types"),
        ("torch", "transformers", "safetensors", "pydantic", "numpy", "scipy", "matplotlib", "tqdm"),
    ),
    # Policies trained against a running service: through the client alone; `loopback` starts the real application.
    "training.rlhf": Room(
        (
            *("training.data", "training.evaluation.best_of_n", "training.generation.outcomes", "training.stages"),
            *("gram_client", "service.app", "service.errors", "service.settings"),
        ),
        ("torch", "transformers", "trl", "datasets", "matplotlib", "tqdm", "uvicorn"),
    ),
    "training.stages": Room(
        (
            "training",
            *NOUNS,
            *PURE,
            "service.manifest",
            "service.tokenization",
            "service.scoring",
            "service.engines",
            "gram_client",
        ),
        ("torch", "transformers", "accelerate", "peft", "trl", "datasets", "tqdm", "numpy"),
    ),
    # The self-training loop: it drives stages and generation, and computes nothing of theirs itself.
    "training.selftrain": Room(
        ("training", *NOUNS, "service.judging", "service.tokenization", "service.engines.base"),
        ("pydantic", "matplotlib", "numpy", "tqdm"),
    ),
    # They measure the whole house from outside, each against its own opponent.
    "benchmarks": Room(("service", "training", "gram_client"), ("httpx", "matplotlib", "psutil", "rich")),
    # Servers of their own: this service with answers ready, and a bare echo.
    "benchmarks.http_layer": Room(("service",), ("fastapi", "uvicorn", "uvloop")),
    "benchmarks.offline": Room(("service",), ("vllm", "prometheus_client")),
    "benchmarks.train_steps": Room(("training",), ("torch", "transformers")),
    "benchmarks.openrlhf_clients": Room(("benchmarks",), ("torch", "openrlhf")),
    "benchmarks.one_pair": Room((), ("torch", "transformers")),
    # Commands that check what deploys the service; they know its files, not its code.
    "deploy": Room((), ("packaging",)),
    "deploy.ray": Room(("service.app", "service.errors", "service.settings"), ("ray", "fastapi", "pydantic")),
    "benchmarks.faulty_worker": Room(("service.engines.cpu_kernels",), ("torch", "vllm")),
    "examples": Room(("gram_client",), ("httpx",)),
}


def room_of(module: str, rooms: dict[str, Room]) -> tuple[str, Room] | None:
    """A module's room and its name (the module's own where each file is a room); None for an undeclared one."""
    keys = [key for key in rooms if is_within(module, key.removesuffix(".*"))]
    keys = [key for key in keys if key != "service" or module == "service"]
    if not keys:
        return None
    key = max(keys, key=lambda key: (len(key.removesuffix(".*")), -len(key)))
    return (module if key.endswith(".*") else key), rooms[key]


def fault(edge: Import, rooms: dict[str, Room], packages: tuple[str, ...]) -> str | None:
    """Why the law forbids this import; None if it allows it."""
    found = room_of(edge.module, rooms)
    if found is None:
        return f"{edge.module} lies in no declared room"
    name, room = found
    library = edge.target.partition(".")[0]
    if library in packages:
        target = room_of(edge.target, rooms)
        same = target is not None and target[0] == name
        allowed = same or any(is_within(edge.target, inside) for inside in room.rooms)
    else:
        allowed = is_standard(library) or library == "__future__" or library in room.libraries
    return None if allowed else f"{edge.module}:{edge.line} must not import {edge.target}"


def test_imports_follow_the_law() -> None:
    tree = modules()
    assert len(tree) > 50, "the tree was not found"
    faults = [found for edge in imports(tree) if (found := fault(edge, ROOMS, PACKAGES))]
    assert not faults, "\n".join(faults)


def test_every_declared_service_room_exists_or_is_announced() -> None:
    """A room that was renamed must not leave its old permissions behind."""
    names = {module.name for module in modules()}
    announced = {"examples"}
    stale = [key for key in ROOMS if key.removesuffix(".*") not in names | announced]
    assert not stale


def test_no_import_cycles() -> None:
    tree = modules()
    names = {module.name for module in tree}
    graph: dict[str, set[str]] = {name: set() for name in names}
    for edge in imports(tree):
        if edge.target in names and edge.target != edge.module:
            graph[edge.module].add(edge.target)
    order = list(TopologicalSorter(graph).static_order())  # raises CycleError and names the cycle
    assert len(order) == len(names)


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("from service.engines import fake\n", "must not import service.engines.fake"),
        ("def f():\n    import torch\n", "must not import torch"),
        ("from training import data\n", "must not import training"),
        ("import math\nfrom service.types import Verdict\n", None),
    ],
)
def test_the_law_is_enforced(tmp_path: Path, source: str, complaint: str | None) -> None:
    """The checker itself, on a tree of three files."""
    for name, text in {
        "service/types.py": "",
        "service/engines/fake.py": "",
        "service/judging/new.py": source,
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    faults = [found for edge in imports(modules(tmp_path)) if (found := fault(edge, ROOMS, PACKAGES))]
    assert [complaint in found for found in faults] == ([True] if complaint else [])


def test_one_engine_must_not_lean_on_another() -> None:
    edge = Import("service.engines.fake", "service.engines.vllm", 1)
    assert fault(edge, ROOMS, PACKAGES) == "service.engines.fake:1 must not import service.engines.vllm"


@pytest.mark.slow
def test_the_service_imports_where_torch_and_vllm_are_not_installed() -> None:
    """`remote` and `fake` install in seconds because nothing on their road needs a model library."""
    code = (
        "import sys; sys.modules['torch'] = sys.modules['vllm'] = None; "  # as if they were not there
        "import service.app, service.engines.fake, service.engines.remote"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]

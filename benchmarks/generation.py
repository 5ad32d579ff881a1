"""Offline generation on the CPU: start-up, texts and likelihoods a second of each engine, and whether texts repeat."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.figures import Bar, Report

SUMMARY = (
    "The demo judge's sampled rationales (seeded, temperature 0.75, four of each pair) through `training.generation`, "
    "each engine in a process of its own: vLLM as it runs offline (float32, prompts never split), the transformers "
    "engine with eight texts written together, and one at a time. A quarter of the texts is then written again in "
    "other order and company; the right rationale of every pair is scored."
)
HEADERS = ("engine", "ready, s", "texts/s", "tokens/s", "CPU ms a token", "likelihoods/s", "changed when written again")
ENGINES: Mapping[str, tuple[str, dict[str, int]]] = {
    "vllm": ("vllm", {}),
    "transformers, 8 together": ("transformers", {"rows": 8}),
    "transformers, one at a time": ("transformers", {"rows": 1}),
}
FASTEST, SLOWEST = "transformers, 8 together", "transformers, one at a time"


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--texts", type=int, default=256, help="texts of each engine (default 256)")


def run(arguments: Namespace) -> Report:
    measured = {}
    for name, (kind, options) in ENGINES.items():
        asked = {"kind": kind, "options": options, "texts": arguments.texts}
        command = [sys.executable, "-m", "benchmarks.generation_engine", json.dumps(asked)]
        print(f"{name} ...", file=sys.stderr)
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        measured[name] = json.loads(done.stdout.splitlines()[-1])
    note = "CPU ms a token: processor time of all processes of the engine, which a busy machine does not change"
    return report(measured, (f"{note}; load average at the end {os.getloadavg()[0]:.0f}",))


def report(measured: Mapping[str, Mapping[str, Any]], notes: Sequence[str] = ()) -> Report:
    """The table and the promises, from what each engine's process printed."""
    rows = [
        (
            name,
            f"{found['ready_s']:.1f}",
            f"{found['texts']['rows_s']:.1f}",
            f"{found['texts']['tokens_s']:,.0f}",
            f"{found['texts']['cpu_ms_per_token']:.2f}",
            f"{found['likelihoods']['rows_s']:.1f}",
            f"{found['again']['changed']} of {found['again']['rows']}",
        )
        for name, found in measured.items()
    ]
    changed = sum(found["again"]["changed"] for found in measured.values())
    together = measured[FASTEST]["texts"]["tokens_s"] / measured[SLOWEST]["texts"]["tokens_s"]
    bars = (
        Bar("texts that changed when written again in other company", changed, "<=", 0),
        Bar("largest difference of an engine's likelihoods to the reference, nats", largest(measured), "<=", 1e-3),
        Bar("tokens/s of the transformers engine, eight together over one at a time", together, ">=", 1.5),
    )
    raw = {name: {key: found[key] for key in found if key != "values"} for name, found in measured.items()}
    return Report("generation", SUMMARY, HEADERS, rows, bars, raw, notes)


def largest(measured: Mapping[str, Mapping[str, Any]]) -> float:
    """Largest difference of a log-likelihood (nats) to the reference's."""
    reference = measured[SLOWEST]["values"]
    return max(abs(found["values"][key] - reference[key]) for found in measured.values() for key in reference)

"""Properties and measurements at their full counts, in parts that are run once per commit."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.figures import Bar, Report
from benchmarks.machine import ROOT, describe_machine
from benchmarks.strikes import KINDS

SUMMARY = "Every example must pass; `--hypothesis-seed` with the seed named repeats a part."
DOCS = ROOT / "docs" / "soak.md"
INTRODUCTION = (
    "# Soak\n\nWritten by `make soak` (`python -m benchmarks soak --write-docs`), oldest first: the properties that\n"
    "`make test` samples, at their full counts, on every store.\n"
)
STATE = ROOT / ".soak.json"
FULL_SCALE = 50.0
PART_S = 1800
STORES = 3
QUEUES = ("tests/contract/test_queue_properties.py", "tests/service/test_normalization.py")


@dataclass(frozen=True, slots=True)
class Part:
    """Tests of one property: where they stand, the word in their names, and the examples promised at full scale.

    Or a measurement with promised figures: the words of its command line. Its report tells its examples (``raw``), and
    every figure counts as a test.
    """

    what: str
    paths: tuple[str, ...] = ()
    word: str = ""
    examples: int = 1
    measurement: tuple[str, ...] = ()


PARTS: Mapping[str, Part] = {
    "Q1": Part("statistics are exact", QUEUES, "q1_", 10_000 * (STORES + 1)),
    "Q2": Part("order does not matter", QUEUES, "q2_", 5_000 * (STORES + 1)),
    "Q3": Part("any input is refused or finite", QUEUES, "q3_", 20_000 * (STORES + 1)),
    "Q4": Part("retries count once", QUEUES, "q4_", 5_000 * STORES),
    "Q5": Part("queues are apart", QUEUES, "q5_", 5_000 * STORES),
    "Q6": Part("reading writes nothing", QUEUES, "q6_", 5_000 * STORES),
    "Q7": Part("cold start", QUEUES, "q7_", 14 * STORES),
    "Q8": Part("constant windows", QUEUES, "q8_", 1_000 * (STORES + 1)),
    "Q9": Part("units do not matter", QUEUES, "q9_", 5_000 * (STORES + 1)),
    "Q10": Part("commits are whole", QUEUES, "q10_", 4 * STORES),
    "Q11": Part("replicas see one history", QUEUES, "q11_", 4 * 5_000 * 20 * STORES),
    "Q12": Part("memory is bounded", QUEUES, "q12_", 10_000 * STORES),
    "Q13": Part("outliers leave no trace", QUEUES, "q13_", 2_000 * STORES),
    "Q14": Part("exports come back or are refused", QUEUES, "q14_", 2 * 2_000 * STORES),
    "sequences": Part("any calls in any order match the model", QUEUES, "any_sequence", 2_000 * STORES),
    "J1": Part(
        "comparisons are antisymmetric, rankings permutations",
        ("tests/service/ranking", "tests/service/test_aggregation.py", "tests/service/test_scoring.py"),
        "j1_",
        5_000 * 5,
    ),
    "J2": Part(
        "texts cannot change control tokens",
        ("tests/service/test_tokenization.py", "tests/service/test_segments.py"),
        "j2_",
        100_000,
    ),
    "quotations": Part(
        "no verdict is read from a quotation", ("tests/service/judging/test_quoting.py",), "", 4 * 3 * 50_000
    ),
    "proofs": Part("proof and rationale carry each other", ("tests/training/data/test_proofs.py",), "", 3 * 10_000),
    "defects": Part("planted defects are caught", ("tests/contract/test_defects.py",)),
    "probes": Part("hostile texts and requests", ("tests/service/test_hostile.py",), "", 2 * 700),
    "bodies": Part("broken bodies x 4 routes", ("tests/service/test_raw_bodies.py",), "documented", 4 * 300),
    "mutations": Part("good bodies with broken bytes", ("tests/service/test_raw_bodies.py",), "mutation", 50_000),
    "http": Part("broken framing, smuggled requests", ("tests/service/test_broken_http.py",), "", 60),
    "access": Part("routes x methods x spellings x wrong keys", ("tests/service/test_access.py",), "", 150_000),
    "memory": Part("nothing is kept of what was answered", ("tests/service/test_memory.py",), "", 10_100),
    **{
        f"schema-{number}": Part("requests made from openapi.json", ("tests/service/test_fuzz.py",), "", 20_000)
        for number in (1, 2, 3)
    },
    "processes": Part(
        "4 processes x 5,000 commits", ("tests/service/stores/test_processes.py",), "four_processes", 2 * 4 * 5_000
    ),
    "kills": Part("100 times kill -9 of a writer", ("tests/service/stores/test_processes.py",), "killed", 2 * 100),
    "redis": Part("Redis stopped, frozen, empty", ("tests/integration/test_redis_lost.py",), "", 50 * 40),
    **{
        f"load-{n}": Part(
            f"mixed requests, part {n} of 4",
            examples=50_000,
            measurement=("load", "--only", "mixed", "--share", "0.25"),
        )
        for n in range(1, 5)
    },
    "http-layer": Part("the HTTP layer against a bare echo", measurement=("load", "--only", "layer")),
    "saturation": Part("four times too many callers", examples=20_000, measurement=("saturation",)),
    "deadlines": Part("deadlines are kept", examples=5_000, measurement=("deadlines",)),
    "disconnects": Part("who hangs up leaves nothing behind", examples=2_000, measurement=("disconnects",)),
    "drain": Part("SIGTERM cuts no verdict", examples=50, measurement=("drain",)),
    **{
        f"load-vllm-{n}": Part(
            f"mixed requests on vLLM, part {n} of 4",
            examples=5_000,
            measurement=("load", "--engine", "vllm", "--share", "0.25"),
        )
        for n in range(1, 5)
    },
    **{
        f"drain-vllm-{n}": Part(
            f"SIGTERM with vLLM, part {n} of 5",
            examples=10,
            measurement=("drain", "--engine", "vllm", "--share", "0.2"),
        )
        for n in range(1, 6)
    },
    **{
        f"fault-{name}": Part(f"10 times: {kind.what}", examples=10, measurement=("faults", "--kind", name))
        for name, kind in KINDS.items()
    },
    "fault-service": Part(
        "20 times SIGKILL of the service", examples=20, measurement=("faults", "--kind", "service", "--times", "20")
    ),
    "endurance": Part("a fault a minute", examples=28, measurement=("endurance", "--minutes", "29")),
}


@dataclass(frozen=True, slots=True)
class Result:
    """What running a part came to. ``failures`` counts failed, broken and skipped tests, and missed figures."""

    part: str
    tests: int
    failures: int
    examples: int
    seconds: float
    seed: int
    scale: float
    commit: str

    @property
    def enough(self) -> bool:
        return self.examples >= PARTS[self.part].examples * self.scale / FULL_SCALE


def add_arguments(parser: ArgumentParser, parts: Sequence[str] = tuple(PARTS)) -> None:
    parser.add_argument("--part", action="append", choices=parts, help="run this one (may be repeated)")
    parser.set_defaults(parts=parts)
    parser.add_argument("--list", action="store_true", help="list the parts and what is done at this commit")
    parser.add_argument("--again", action="store_true", help="run parts that are done as well")
    parser.add_argument("--seed", type=int, help="hypothesis seed (default: a new one for each part)")
    parser.add_argument("--scale", type=float, default=FULL_SCALE, help="50 is the full counts (the default)")
    parser.add_argument("--workers", type=int, default=2, help="test processes of a part (default 2)")


def run(arguments: Namespace) -> Report:
    commit = str(describe_machine()["commit"])
    done = _done(commit, arguments.scale)
    if arguments.list:
        for name in arguments.parts:
            print(f"{name:14} {'done' if name in done else '':5} {PARTS[name].what}")
        raise SystemExit(0)
    results = []
    for name in arguments.part or arguments.parts:
        if name not in done or arguments.again:
            seed = arguments.seed if arguments.seed is not None else random.getrandbits(32)
            if PARTS[name].measurement:
                result = _measure(name, seed, arguments.scale, commit)
            else:
                result = _run(name, seed, arguments.scale, arguments.workers, commit)
            _keep(result)
            done[name] = result
        results.append(done[name])
    return _report(results)


def _run(name: str, seed: int, scale: float, workers: int, commit: str) -> Result:
    """One part through pytest; what fails is on the terminal."""
    part = PARTS[name]
    print(f"{name}: {part.what} (seed {seed})", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        junit = Path(folder) / "junit.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-n", str(workers), f"--junitxml={junit}"]
        command += [f"--property-scale={scale}", f"--hypothesis-seed={seed}", f"--timeout={PART_S}"]
        started = time.monotonic()
        subprocess.run([*command, "-k", part.word, *part.paths], cwd=ROOT, check=False, timeout=2 * PART_S)
        return _result(name, junit, time.monotonic() - started, seed, scale, commit)


def _measure(name: str, seed: int, scale: float, commit: str) -> Result:
    """One part that is a measurement; its table is on the terminal."""
    part = PARTS[name]
    print(f"{name}: {part.what} (seed {seed})", flush=True)
    words, share = list(part.measurement), scale / FULL_SCALE
    if "--share" in words:
        at = words.index("--share")
        share *= float(words[at + 1])
        del words[at : at + 2]
    command = [sys.executable, "-m", "benchmarks", *words, "--share", str(share), "--seed", str(seed)]
    started, lines = time.monotonic(), list[str]()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            lines.append(line)
            if not line.startswith('{"measurement"'):
                print(line, end="", flush=True)
    return _figures(name, lines[-1] if lines else "", time.monotonic() - started, seed, scale, commit)


def _figures(name: str, line: str, seconds: float, seed: int, scale: float, commit: str) -> Result:
    """Read a measurement's last line. None, or one without figures, is a failure."""
    try:
        report = json.loads(line)
        bars, examples = report["bars"], int(report["raw"]["examples"])
    except (ValueError, KeyError, TypeError):
        return Result(name, 0, 1, 0, seconds, seed, scale, commit)
    missed = sum(not bar["holds"] for bar in bars)
    return Result(name, len(bars), missed + (not bars), examples, seconds, seed, scale, commit)


def _result(name: str, junit: Path, seconds: float, seed: int, scale: float, commit: str) -> Result:
    """Read pytest's report. No report or no test at all is a failure."""
    if not junit.exists():
        return Result(name, 0, 1, 0, seconds, seed, scale, commit)
    cases = ET.parse(junit).getroot().findall(".//testcase")
    bad = sum(any(child.tag in ("failure", "error", "skipped") for child in case) for case in cases)
    noted = [p.get("value", "0") for case in cases for p in case.iter("property") if p.get("name") == "examples"]
    return Result(name, len(cases), bad + (not cases), sum(map(int, noted)), seconds, seed, scale, commit)


def _read() -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = json.loads(STATE.read_text()) if STATE.exists() else []
    return results


def _done(commit: str, scale: float) -> dict[str, Result]:
    """Parts that passed at this very commit; a changed checkout has none."""
    kept = [Result(**entry) for entry in _read()]
    if commit.endswith("with changes") or commit == "unknown":
        return {}
    return {
        result.part: result
        for result in kept
        if (result.commit, result.scale, result.failures) == (commit, scale, 0) and result.part in PARTS
    }


def _keep(result: Result) -> None:
    """Written after each part, so that an interrupted soak goes on from there."""
    STATE.write_text(json.dumps([*_read(), asdict(result)], indent=1))


def _report(results: list[Result]) -> Report:
    headers = ("part", "what", "tests", "examples", "failures", "seconds", "seed", "commit")
    rows = [
        [
            result.part,
            PARTS[result.part].what,
            str(result.tests),
            f"{result.examples:,}",
            str(result.failures),
            f"{result.seconds:.0f}",
            str(result.seed),
            result.commit,
        ]
        for result in results
    ]
    bars = [
        Bar("failures in all parts", float(sum(result.failures for result in results)), "<=", 0),
        Bar("parts with fewer examples than promised", float(sum(not result.enough for result in results)), "<=", 0),
        Bar("seconds of the longest part", max(result.seconds for result in results), "<=", PART_S),
    ]
    scales = sorted({result.scale for result in results})
    notes = [f"Property scale {scales} (50 = full counts)."] if scales != [FULL_SCALE] else []
    return Report("soak", SUMMARY, headers, rows, bars, [asdict(result) for result in results], notes)

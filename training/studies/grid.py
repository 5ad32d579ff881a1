"""Runs of a study: each (arm, point, seed) is one process's work and one JSON file; a rerun skips what exists.

    runs/studies/smoothing/full/setup.json                            everything the results depend on
    runs/studies/smoothing/full/gram-0.05/flips-0.15/seed-3.json         one run: its measures and its seconds
    runs/studies/smoothing/full/backbone/all-tasks/seed-3.safetensors   weights that other runs begin from

Files appear whole or not at all, so a study may be interrupted at any moment and started again with the same command.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from tqdm import tqdm

from training.data.pairs import DataError


@dataclass(frozen=True, slots=True, order=True)
class Unit:
    """One run of a study. ``arm`` is what is compared, ``point`` where (a noise rate, a number of labels)."""

    arm: str
    point: str
    seed: int

    def file(self, folder: Path) -> Path:
        """Where its result lies."""
        return folder / self.arm / self.point / f"seed-{self.seed}.json"

    def weights(self, folder: Path) -> Path:
        """Where its weights lie, of a run that others begin from."""
        return self.file(folder).with_suffix(".safetensors")


Work = Callable[[Unit, Any, Path], dict[str, float]]
"""(unit, the study's setup, its folder) -> measures. A function of a module: worker processes import it."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a run measured, by name ("hard/accuracy"); ``seconds`` of the processor, of one thread."""

    unit: Unit
    measures: Mapping[str, float]
    seconds: float


def run_grid(phases: Sequence[Sequence[Unit]], work: Work, setup: BaseModel, folder: Path, workers: int) -> float:
    """Run what is missing, phase after phase (a phase may need the files of those before). Returns wall seconds.

    Raises `DataError` when the folder holds results of another setup, and what a run raised, after the others ended.
    """
    start = time.monotonic()
    pin_setup(setup, folder)
    missing = [[unit for unit in phase if not unit.file(folder).exists()] for phase in phases]
    done = sum(map(len, phases)) - sum(map(len, missing))
    with tqdm(total=sum(map(len, phases)), initial=done, unit="run", smoothing=0.1, desc=folder.parent.name) as bar:
        for phase in missing:
            for unit in _in_parallel(phase, work, setup, folder, workers):
                bar.set_postfix_str(f"{unit.arm} {unit.point} seed {unit.seed}")
                bar.update()
    return time.monotonic() - start


def _in_parallel(units: Sequence[Unit], work: Work, setup: BaseModel, folder: Path, workers: int) -> Iterator[Unit]:
    if not units:
        return
    if workers == 1:
        for unit in units:
            yield run_unit(unit, work, setup, folder)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(units)), mp_context=context, initializer=_end_with_parent) as pool:
        futures = [pool.submit(run_unit, unit, work, setup, folder) for unit in units]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def run_unit(unit: Unit, work: Work, setup: BaseModel, folder: Path) -> Unit:
    """One run on one thread: at this size a second one costs more than it brings. Writes the unit's file."""
    _one_thread()
    start = time.process_time()
    measures = work(unit, setup, folder)
    row = {"arm": unit.arm, "point": unit.point, "seed": unit.seed, "seconds": round(time.process_time() - start, 2)}
    write_json(unit.file(folder), row | {"measures": measures})
    return unit


def read_results(units: Iterable[Unit], folder: Path) -> list[Result]:
    """The results that exist. Raises `DataError` for a file that is not one."""
    results = []
    for unit in units:
        path = unit.file(folder)
        if not path.exists():
            continue
        try:
            row = json.loads(path.read_text(encoding="utf-8"))
            results.append(Result(unit, row["measures"], row["seconds"]))
        except (ValueError, KeyError) as error:
            raise DataError(f"{path}: not a result of a study ({error!r}); delete it and run again.") from error
    return results


def pin_setup(setup: BaseModel, folder: Path) -> None:
    """Write ``setup.json``, or hold that it says the same. Raises `DataError` naming what differs."""
    path, wanted = folder / "setup.json", setup.model_dump(mode="json")
    if not path.exists():
        write_json(path, {"setup": wanted, "machine": describe_machine()})
        return
    found = json.loads(path.read_text(encoding="utf-8"))["setup"]
    keys = (wanted.keys() | found.keys()) - {"seeds"}  # more seeds are more results, not others
    differing = sorted(key for key in keys if wanted.get(key) != found.get(key))
    if differing:
        raise DataError(
            f"{path}, field {differing[0]}: these results were made with another setup; "
            "delete the folder, or name another with --output."
        )


def write_json(path: Path, value: Any) -> None:
    """Whole or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def describe_machine() -> dict[str, str]:
    """Processor, cores and the versions that results depend on."""
    names = [line for line in _lines(Path("/proc/cpuinfo")) if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": names[0].partition(":")[2].strip() if names else platform.machine(),
        "cores": str(cores),
        "Python": platform.python_version(),
        **{package: version(package) for package in ("torch", "transformers", "numpy", "scipy")},
    }


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def _end_with_parent() -> None:
    """Of a worker: it must not go on for minutes after a study that was killed."""
    threading.Thread(target=_exit_after_parent, daemon=True).start()


def _exit_after_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)

"""A worker of vLLM that fails when a file says so: for `benchmarks.faults`, never for service.

Its engine names it as ``worker_extension_cls``, and the environment names the file. What the file holds strikes the
next forward pass, once: ``raise`` an exception in the midst of a batch, or ``nan`` in the weights of the last norm.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from vllm.v1.worker.gpu_worker import Worker

from service.engines import cpu_kernels

FILE = "BENCHMARK_FAULT_FILE"

_sound = Worker.execute_model


def _execute(worker: Any, *args: Any, **kwargs: Any) -> Any:
    path = Path(os.environ[FILE])
    if path.exists():
        fault = path.read_text()
        path.unlink()
        if fault == "raise":
            raise RuntimeError("a planned exception in a forward pass")
        if fault == "nan":
            model = worker.model_runner.model
            norms = [weight for name, weight in model.named_parameters() if name.endswith("norm.weight")]
            with torch.no_grad():
                norms[-1].fill_(float("nan"))
    return _sound(worker, *args, **kwargs)


Worker.execute_model = _execute


class Extension(cpu_kernels.Extension):
    """Naming it has this module imported in the worker."""

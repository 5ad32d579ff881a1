"""Arm (a), a program of its own: vLLM's offline `LLM.generate` on token ids, with the service's engine settings.

The first answer is how the engine was built; then lists of prompts become seconds and label log-probabilities.
"""

from __future__ import annotations

import os
import sys
import time
from multiprocessing.connection import Connection

from prometheus_client import CollectorRegistry
from vllm import LLM, SamplingParams
from vllm.inputs import tokens_input

from service.engines.vllm import VllmEngine
from service.engines.vllm_options import engine_arguments
from service.settings import load_settings
from service.startup import load_manifest, pick_engine, plan_judges


def main() -> None:
    pipe = Connection(int(sys.argv[1]))
    os.environ["VLLM_NO_USAGE_STATS"] = "1"
    os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
    settings = load_settings()
    manifest = load_manifest(settings)
    engine = pick_engine(settings, plan_judges(settings, manifest), manifest, CollectorRegistry())
    if not isinstance(engine, VllmEngine):
        raise SystemExit("Throughput compares vLLM with vLLM; leave engine.type at its default.")
    before = dict(os.environ)
    arguments = engine_arguments(engine.options)
    set_by_it = {name: value for name, value in os.environ.items() if before.get(name) != value}
    llm = LLM(**arguments)
    pipe.send({"arguments": arguments, "environment": set_by_it})
    while True:
        try:
            prompts, label_ids = pipe.recv()
        except EOFError:
            return
        pipe.send(_measure(llm, prompts, label_ids))


def _measure(llm: LLM, prompts: list[tuple[int, ...]], label_ids: tuple[int, ...]) -> dict[str, object]:
    params = SamplingParams(max_tokens=1, temperature=0.0, logprob_token_ids=list(label_ids), detokenize=False)
    started = time.perf_counter()
    outputs = llm.generate([tokens_input(list(ids)) for ids in prompts], params, use_tqdm=False)
    seconds = time.perf_counter() - started
    rows = [output.outputs[0].logprobs[0] for output in outputs]
    return {
        "seconds": seconds,
        "logprobs": [tuple(row[label].logprob for label in label_ids) for row in rows],
        "prompt_tokens": sum(map(len, prompts)),
        "cached_tokens": sum(output.num_cached_tokens or 0 for output in outputs),
    }


if __name__ == "__main__":
    main()

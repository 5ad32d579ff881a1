"""An engine request in vLLM's words."""

from __future__ import annotations

from functools import lru_cache

from vllm import PoolingParams, SamplingParams
from vllm.sampling_params import RepetitionDetectionParams, RequestOutputKind

from service.engines.base import EngineRequest, Repetition

SCALAR_PARAMS = PoolingParams(task="classify", use_activation=False)


@lru_cache(maxsize=256)
def label_params(label_ids: tuple[int, ...]) -> SamplingParams:
    """Built once per label set: building and deep-copying parameters costs more than sending them."""
    return SamplingParams(
        max_tokens=1,
        temperature=0.0,
        logprob_token_ids=list(label_ids),
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
        skip_clone=True,
    )


LIKELIHOOD_PARAMS = SamplingParams(
    max_tokens=1,
    temperature=0.0,
    prompt_logprobs=0,  # of each prompt token itself, and of no other
    detokenize=False,
    output_kind=RequestOutputKind.FINAL_ONLY,
    skip_clone=True,
)


def params_of(request: EngineRequest) -> SamplingParams:
    if request.task == "label":
        return label_params(request.label_ids)
    return LIKELIHOOD_PARAMS if request.task == "likelihood" else generation_params(request)


def generation_params(request: EngineRequest, streaming: bool = False) -> SamplingParams:
    return SamplingParams(
        max_tokens=request.max_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        seed=request.seed if request.is_seeded else None,
        stop=list(request.stop),
        include_stop_str_in_output=True,
        repetition_detection=_repetition(request.repetition),
        output_kind=RequestOutputKind.DELTA if streaming else RequestOutputKind.FINAL_ONLY,
    )


def _repetition(rule: Repetition | None) -> RepetitionDetectionParams | None:
    return rule and RepetitionDetectionParams(rule.longest, rule.shortest, rule.times)

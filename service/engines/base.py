"""The seam between judging and models: token ids in, a completion out. Library objects never leave an engine's file."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from service.errors import InvalidInput, NotApplied, NotFound, StartupError, TokenLimitExceeded
from service.types import Completion, FinishReason

Task = Literal["label", "generate", "scalar", "likelihood"]

# vLLM's bound on the token ids whose log-probabilities one request may ask for.
MAX_LABELS = 128

TASKS_OF: Mapping[Literal["generate", "pooling"], tuple[Task, ...]] = {
    "generate": ("label", "generate", "likelihood"),
    "pooling": ("scalar",),
}
"""What a model can do that is loaded to write text, or with a sequence-classification head."""

NO_SCORING = "vLLM cannot score texts while it holds LoRA adapters; merge the adapter into its model."
"""With adapters its logits are made for sampled positions only: a prompt's worth of them ends a CPU engine (0.32)."""

SEEDS = 2**63
"""Seeds lie in [0, SEEDS): what every engine's generator of random numbers takes."""

# Why vLLM ended a text, where that makes a completion; its other reasons (abort, error) mean a cut answer.
FINISHED: Mapping[str | None, FinishReason] = {"stop": "stop", "length": "length", "repetition": "repetition"}

TRACE_HEADERS: ContextVar[Mapping[str, str] | None] = ContextVar("TRACE_HEADERS", default=None)
"""W3C trace headers of the span that the work of this task is part of (`service.tracing` sets them), for engines that
trace too. A context variable because requests of equal content are one request, whoever asks (`EngineRequest`)."""

# Weight files are sampled, not read: this many pieces of this many bytes tell checkpoints apart in milliseconds.
_PIECES, _PIECE_BYTES = 16, 65536


@dataclass(frozen=True, slots=True)
class Repetition:
    """When a text counts as going round in circles: its last tokens are one piece, ``times`` times in a row.

    Pieces of ``shortest`` to ``longest`` tokens are looked for. With longest = 2 * shortest - 1, as here, a loop of any
    period up to ``longest`` is seen, because some multiple of a shorter one lies in that range; nothing shorter than
    ``shortest * times`` tokens ever counts, which spares rulers, table rows and long numbers.
    """

    times: int
    shortest: int = 32
    longest: int = 63


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """One prompt for the engine.

    ``label``: one forward pass; the log-probabilities of exactly ``label_ids`` at the next position come back.
    ``generate``: up to ``max_tokens`` tokens at ``temperature`` (0 = greedy), ended by the end-of-sequence token, by
    one of ``stop``, whose text is kept, or when the text goes round in circles by the rule ``repetition``. ``scalar``:
    the raw output of a sequence-classification head. ``likelihood``: how probable the prompt's own tokens from
    ``scored_from`` on are, given what stands before them; nothing is written.
    ``adapter`` names a LoRA adapter of the engine's model; ``cache_salt`` separates tenants' prefix caches. Requests
    with the same ``affinity`` share a long prefix: an engine with several copies of the model sends them to one. It
    says where to compute, not what, so it is no part of a request's identity.

    ``seed`` makes a sampled text repeatable, whatever else the engine works on meanwhile. It is for offline work: no
    route sets it, and an engine that a seeded request could kill refuses it (`InvalidInput`).
    """

    prompt_ids: tuple[int, ...]
    task: Task
    label_ids: tuple[int, ...] = ()
    max_tokens: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    repetition: Repetition | None = None
    adapter: str | None = None
    cache_salt: str | None = None
    seed: int | None = None
    scored_from: int = 0
    affinity: bytes | None = field(default=None, compare=False)

    @property
    def is_seeded(self) -> bool:
        """Whether the answer is a draw that the seed decides; a greedy text needs none."""
        return self.seed is not None and self.task == "generate" and self.temperature > 0


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What an engine serves. ``max_model_len`` is tokens of prompt and completion together."""

    engine: str
    model: str
    max_model_len: int
    weight_version: str
    dtype: str
    adapter_versions: Mapping[str, str] = field(default_factory=dict)

    def version_of(self, adapter: str | None) -> str:
        """Which weights answer a request for this adapter (None: the plain model)."""
        return self.weight_version if adapter is None else f"{self.weight_version}+{self.adapter_versions[adapter]}"


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of generated text, as it appears."""

    text: str


@dataclass(frozen=True, slots=True)
class Progress:
    """``since`` is ``time.monotonic()`` at the engine's last output, or when work reached it while it was idle;
    ``last`` is that of its last output, or of its beginning, whatever reached it since."""

    unfinished: int
    since: float
    last: float = -math.inf

    def stalled_s(self, now: float) -> float:
        """Seconds with work but without output; 0 for an idle engine. A hung engine is known by this alone."""
        return now - self.since if self.unfinished else 0.0


class ProgressMeter:
    """Counts the requests inside an engine and remembers when one last moved."""

    def __init__(self) -> None:
        self._unfinished = 0
        self._since = self._last = time.monotonic()

    @contextmanager
    def request(self) -> Iterator[None]:
        """Around one request, however it ends."""
        if self._unfinished == 0:
            self._since = time.monotonic()
        self._unfinished += 1
        try:
            yield
        finally:
            self._unfinished -= 1

    def moved(self) -> None:
        """The engine gave some output."""
        self._since = self._last = time.monotonic()

    @property
    def progress(self) -> Progress:
        return Progress(self._unfinished, self._since, self._last)


class Engine(Protocol):
    """What every engine promises; `tests/contract/test_engine_contract.py` holds each one to it.

    All methods are called on one event loop. Cancelling the awaiting task aborts the work inside the engine.
    Errors: `EngineDead` when the engine cannot answer any more, `JudgmentFailed` when this prompt got no usable answer
    (aborted, engine error), `TokenLimitExceeded` for a prompt beyond ``max_model_len``, `StartupError` from `start`.
    A completion that was cut by shutdown or abort is an error, never a `Completion`.
    """

    @property
    def info(self) -> EngineInfo:
        """Known after `start`."""
        ...

    @property
    def progress(self) -> Progress:
        """Requests inside the engine and when it last gave output; costs nothing."""
        ...

    async def start(self) -> None:
        """Load the model. Raises `StartupError` with one sentence that says what to do."""
        ...

    async def complete(self, request: EngineRequest) -> Completion:
        """Run one prompt to its end."""
        ...

    def stream(self, request: EngineRequest) -> AsyncIterator[TextDelta | Completion]:
        """Run one ``generate`` prompt; yields text as it appears, then the `Completion` as the last item."""
        ...

    async def check(self) -> None:
        """Cheap liveness: returns if the engine can take work, raises `EngineDead` otherwise."""
        ...

    async def close(self) -> None:
        """Free the model. In-flight requests end with an error. May be called twice."""
        ...


@runtime_checkable
class Reloadable(Protocol):
    """An engine whose weights can be changed while it runs. Nothing is inside while it does (`service.exchange`)."""

    async def reload(self, model: str | None, version: str | None) -> None:
        """Serve this checkpoint (None: the one there is, under another name) from now on: a directory, or what was
        served before.

        ``version`` None: named after its content. Raises `NotApplied` for a checkpoint that cannot take the present
        one's place, which then is still served; after any other error the weights are in no known state.
        """
        ...


@runtime_checkable
class Repeatable(Protocol):
    """An engine that can be built once more as it is now, with whatever was changed since its start."""

    def another(self) -> Engine:
        """One like this, not started."""
        ...


@runtime_checkable
class Adaptable(Protocol):
    """An engine that takes and drops LoRA adapters while it runs."""

    async def add_adapter(self, name: str, path: str) -> None:
        """Serve requests for ``name`` with the adapter in this directory. Raises `NotApplied`."""
        ...

    async def remove_adapter(self, name: str) -> None:
        """Forget it; nobody asks for it any more."""
        ...


def reloadable(engine: Engine) -> Reloadable:
    """The engine, if its weights can be changed. Raises `NotApplied`."""
    if not isinstance(engine, Reloadable):
        raise NotApplied(f"The {engine.info.engine} engine keeps its weights; start a service with the new ones.")
    return engine


def adaptable(engine: Engine) -> Adaptable:
    """The engine, if it takes adapters. Raises `NotApplied`."""
    if not isinstance(engine, Adaptable):
        kind = engine.info.engine
        raise NotApplied(f"The {kind} engine takes no adapters while it runs; name them in its configuration.")
    return engine


def is_sound(completion: Completion) -> bool:
    """Whether all its numbers are finite; a model with broken weights answers quickly, and with NaN."""
    numbers = (*completion.label_logprobs, completion.score, completion.log_likelihood)
    return all(math.isfinite(number) for number in numbers if number is not None)


def prompt_limit(task: Task, max_model_len: int) -> int:
    """The longest prompt in tokens: all but scalar heads need room for one more token."""
    return max_model_len if task == "scalar" else max_model_len - 1


def check_request(request: EngineRequest, info: EngineInfo, tasks: Collection[Task], adapters: Collection[str]) -> None:
    """Refuse what no engine can answer, in the same words everywhere.

    Raises `InvalidInput` (a task this model cannot do, no label ids, an empty prompt, nothing to score), `NotFound`
    (adapter) and `TokenLimitExceeded` (details ``tokens`` and ``limit``).
    """
    if request.task not in tasks:
        raise InvalidInput(f"The model cannot do {request.task!r} requests; use a judge of another family.")
    if request.adapter is not None and request.adapter not in adapters:
        raise NotFound("The engine has no such adapter; name one from the configuration.", adapter=request.adapter)
    if not request.prompt_ids:
        raise InvalidInput("The prompt is empty; render at least one token.")
    if request.task == "label" and not 1 <= len(set(request.label_ids)) == len(request.label_ids) <= MAX_LABELS:
        raise InvalidInput(f"A label read needs 1 to {MAX_LABELS} distinct label ids.")
    if request.task == "generate" and request.max_tokens < 1:
        raise InvalidInput("A generation needs max_tokens of at least 1.")
    if request.task == "likelihood" and not 1 <= request.scored_from < len(request.prompt_ids):
        raise InvalidInput("A likelihood needs a token before scored_from and one from it on.")
    if request.seed is not None and not 0 <= request.seed < SEEDS:
        raise InvalidInput("A seed is a whole number of at most 63 bits.")
    if (rule := request.repetition) is not None and not (rule.times >= 2 and 1 <= rule.shortest <= rule.longest):
        raise InvalidInput("A repetition needs two or more times and pieces of at least one token.")
    tokens, limit = len(request.prompt_ids), prompt_limit(request.task, info.max_model_len)
    if tokens > limit:
        message = (
            f"The rendered prompt has {tokens} tokens, the model takes {limit}; shorten the prompt or the responses."
        )
        raise TokenLimitExceeded(message, tokens=tokens, limit=limit)


def goes_round(ids: Sequence[int], rule: Repetition | None) -> bool:
    """Whether generated tokens now end in a repetition: what vLLM checks after each token, for engines without it."""
    if rule is None or len(ids) < rule.shortest * rule.times:
        return False
    for size in range(rule.shortest, min(rule.longest, len(ids) // rule.times) + 1):
        start = len(ids) - size * rule.times
        # One comparison says that the span repeats with this period; the first token alone rules most sizes out.
        if ids[-1] == ids[-1 - size] and ids[start + size :] == ids[start : len(ids) - size]:
            return True
    return False


def room_for(request: EngineRequest, info: EngineInfo) -> int:
    """How many tokens may be generated: ``max_tokens``, or what the context window leaves."""
    return min(request.max_tokens, info.max_model_len - len(request.prompt_ids))


def require_model(model: str) -> None:
    """Raise `StartupError` where ``model`` names a directory (and not a hub id) that holds no model."""
    path = Path(model)
    looks_local = path.is_absolute() or model.startswith((".", "~")) or path.exists()
    if looks_local and not (path / "config.json").is_file():
        raise StartupError(f"There is no model at {model}; give a directory with config.json and safetensors weights.")


def fingerprint_weights(model: str) -> str:
    """A short name for a checkpoint directory's weights: equal files give equal names on every machine.

    A hub id is its own name. Covers the JSON files that shape the model and pieces spread over every weight file, so
    that a retrained model of the same shape gets another name without reading tens of gigabytes.
    """
    if not Path(model).is_dir():
        return model
    digest = hashlib.sha256()
    for path in sorted(Path(model).iterdir()):
        if path.suffix == ".safetensors":
            size = path.stat().st_size
            digest.update(f"{path.name} {size}".encode())
            with path.open("rb") as file:
                for i in range(_PIECES):
                    file.seek(max(0, size - _PIECE_BYTES) * i // (_PIECES - 1))
                    digest.update(file.read(_PIECE_BYTES))
        elif path.name in ("config.json", "adapter_config.json"):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]

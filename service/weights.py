"""Other weights, without a restart: checkpoints put in the place of the present one, LoRA adapters added and removed.

A change is read and checked as far as possible while the service goes on; then the door closes (`service.exchange`),
the engine takes the new weights, every judge must answer and pass its checkpoint's self-test, and only then does the
door open. What fails goes back to the old weights. Paths come from the configuration, names from the caller.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from service.engines.base import Engine, adaptable, fingerprint_weights, reloadable
from service.errors import EngineDead, NotApplied, NotFound, ServiceError, StartupError
from service.exchange import Exchange
from service.judge import Judge
from service.manifest import Manifest
from service.scoring import Scorer
from service.settings import Settings
from service.startup import (
    JudgePlan,
    check_tokenizer,
    load_manifest,
    load_tokenizer,
    make_judge,
    manifest_adapters,
    plan_judges,
    plan_of,
    probe,
    self_test,
)
from service.tokenization import ChatTokenizer

log = logging.getLogger("gram.weights")

Kind = Literal["weights", "adapter_added", "adapter_removed"]
ChangeOutcome = Literal["applied", "refused", "rolled_back", "lost"]
"""``refused``: nothing was touched. ``lost``: neither the new weights nor the old ones answer."""


@dataclass(frozen=True, slots=True)
class Served:
    """What is served: a checkpoint as it was read. ``plans`` are its judges, without adapters added since."""

    model: str
    manifest: Manifest | None
    plans: tuple[JudgePlan, ...]
    tokenizer: ChatTokenizer
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Change:
    """The last change and what came of it; ``message`` says why it was not made. Seconds are those of all of it."""

    kind: Kind
    name: str
    outcome: ChangeOutcome
    message: str
    seconds: float


class WeightDesk:
    """One change at a time, each to its end even when nobody waits for it any more.

    `renew` is called when the judges are others; `saw` is told of every change.
    """

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        scorer: Scorer,
        served: Served,
        exchange: Exchange,
        renew: Callable[[], None],
        saw: Callable[[Change], None],
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._scorer = scorer
        self._served = served
        self._exchange = exchange
        self._renew = renew
        self._saw = saw
        self._added: dict[str, JudgePlan] = {}
        self._task: asyncio.Task[list[Judge]] | None = None
        self.last: Change | None = None

    @property
    def checkpoint(self) -> str:
        """The present checkpoint's name: never where it lies."""
        return Path(self._served.model).name

    @property
    def is_busy(self) -> bool:
        return self._task is not None and not self._task.done()

    @property
    def added(self) -> list[str]:
        """Adapters added since the start."""
        return list(self._added)

    def checkpoints(self) -> list[str]:
        """Names that `reload` takes."""
        return _folders(self._settings.weights.checkpoints)

    def adapters(self) -> list[str]:
        """Names that `add_adapter` takes."""
        return _folders(self._settings.weights.adapters)

    async def reload(self, checkpoint: str | None, version: str | None) -> list[Judge]:
        """The judges on the weights of this checkpoint.

        ``version`` None: the one its manifest says, or one made from its content. ``checkpoint`` None: an engine
        whose servers have other weights now, under ``version``. Raises `NotApplied`, `NotFound`, `Overloaded` where
        requests do not finish, `EngineDead` where the old weights could not be brought back.
        """
        return await self._run("weights", checkpoint or version or "", self._reload(checkpoint, version))

    async def add_adapter(self, name: str, judge: str | None, like: str | None) -> list[Judge]:
        """The new judge on this adapter: as the adapter's own judge.json says, else like the judge ``like``.

        Raises `NotApplied`, `NotFound`.
        """
        return await self._run("adapter_added", name, self._add(name, judge or name, like))

    async def remove_adapter(self, name: str) -> list[Judge]:
        """The judge that was on it. Raises `NotFound` for one that was not added here, `Overloaded`."""
        return await self._run("adapter_removed", name, self._remove(name))

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self, kind: Kind, name: str, work: Coroutine[Any, Any, list[Judge]]) -> list[Judge]:
        if self.is_busy:
            work.close()
            raise NotApplied("Another change is under way; wait for it (GET /admin/weights).")
        self._task = asyncio.create_task(self._noted(kind, name, work))
        self._task.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(self._task)

    async def _noted(self, kind: Kind, name: str, work: Coroutine[Any, Any, list[Judge]]) -> list[Judge]:
        started = time.perf_counter()
        outcome: ChangeOutcome = "lost"
        message = "The change was interrupted."
        try:
            judges = await work
            outcome, message = "applied", ""
            return judges
        except ServiceError as error:
            outcome, message = _outcome_of(error), error.message
            raise
        finally:
            self.last = Change(kind, name, outcome, message, time.perf_counter() - started)
            level, shown = (logging.WARNING, "") if outcome == "refused" else (logging.INFO, name)
            log.log(level, "change of %s %s: %s in %.1f s %s", kind, shown, outcome, self.last.seconds, message)
            self._saw(self.last)

    async def _reload(self, checkpoint: str | None, version: str | None) -> list[Judge]:
        engine, before = reloadable(self._engine), self._engine.info.weight_version
        fresh = await self._read(checkpoint)
        version = version or (fresh.manifest.version if fresh.manifest else None) or fresh.fingerprint
        if version == before and (checkpoint is None or fresh.fingerprint != self._served.fingerprint):
            raise NotApplied(f"The weights there are have the version {version} already; send another version.")
        async with self._exchange.alone(self._settings.weights.wait_s):
            try:
                await engine.reload(None if checkpoint is None else fresh.model, version)
            except NotApplied:
                raise
            except Exception as error:
                await self._roll_back(before, error)
            try:
                judges = await self._install(fresh)
            except Exception as error:
                await self._roll_back(before, error)
            self._served = fresh
            self._adopt(judges)
        self._renew()
        return judges

    async def _read(self, checkpoint: str | None) -> Served:
        """The checkpoint, checked as a start would. Raises `NotApplied` and `NotFound`."""
        if checkpoint is None:
            return self._served
        where = self._settings.weights.checkpoints
        path = await asyncio.to_thread(_folder, where, checkpoint, "weights.checkpoints")
        with _refused():
            fresh = await read_served(_with_model(self._settings, str(path)))
            if {plan.name for plan in fresh.plans} != {plan.name for plan in self._served.plans}:
                names = ", ".join(plan.name for plan in fresh.plans)
                raise NotApplied(f"The checkpoint has other judges ({names}); start a service of its own for it.")
            await check_tokenizer(fresh.plans, fresh.tokenizer)
        return fresh

    async def _install(self, served: Served) -> list[Judge]:
        """Judges on what the engine holds now, each of which has answered. Raises `ServiceError`."""
        for name, path in manifest_adapters(served.model, served.manifest).items():
            await adaptable(self._engine).add_adapter(name, path)
        plans = [*served.plans, *self._added.values()]
        judges = [make_judge(plan, self._engine, served.tokenizer) for plan in plans]
        await self._prove(judges, plans)
        return judges

    async def _prove(self, judges: Sequence[Judge], plans: Sequence[JudgePlan]) -> None:
        for judge in judges:
            await probe(judge)
        await self_test(Scorer(judges), plans)

    async def _roll_back(self, version: str, error: Exception) -> None:
        """Raises `NotApplied` with the old weights in place, or `EngineDead`: then an engine that is started in its
        place, if one is, holds the old weights, which are still the judges'."""
        log.error("the new weights do not answer (%s); the old ones are brought back", _reason(error))
        try:
            await reloadable(self._engine).reload(self._served.model, version)
            await self._install(self._served)
        except Exception as lost:
            log.critical("the old weights do not answer either (%s)", _reason(lost))
            await self._engine.close()
            message = "Neither the new weights nor the old ones answer; restart the service."
            raise EngineDead(message, retry_after_s=5) from lost
        message = f"The new weights were tried and refused ({_reason(error)}); the old ones are in place."
        raise NotApplied(message, rolled_back=True) from error

    async def _add(self, name: str, judge: str, like: str | None) -> list[Judge]:
        engine = adaptable(self._engine)
        path = await asyncio.to_thread(_folder, self._settings.weights.adapters, name, "weights.adapters")
        if name in self._engine.info.adapter_versions or judge in self._scorer.judges:
            raise NotApplied("There is an adapter or a judge of this name already; remove it first.")
        with _refused():
            plan = self._plan(name, judge, like, await asyncio.to_thread(Manifest.load, path))
            await engine.add_adapter(name, str(path))
            try:
                made = make_judge(plan, self._engine, self._served.tokenizer)
                await self._prove([made], [plan])
            except BaseException:
                await engine.remove_adapter(name)
                raise
        self._added[name] = plan
        self._adopt([*self._scorer.judges.values(), made])
        return [made]

    def _plan(self, name: str, judge: str, like: str | None, manifest: Manifest | None) -> JudgePlan:
        if manifest is not None:
            if len(manifest.judges) != 1:
                raise NotApplied(f"The judge.json of adapter {name} must name one judge.")
            return replace(plan_of(manifest.judges[0]), name=judge, adapter=name)
        models = [plan for plan in self._served.plans if like in (None, plan.name)]
        if not models:
            raise NotFound("No judge of the checkpoint has the name in 'like'; GET /models lists them.")
        return replace(models[0], name=judge, adapter=name, self_test=None)

    async def _remove(self, name: str) -> list[Judge]:
        if name not in self._added:
            raise NotFound("No adapter of this name was added; GET /admin/weights lists those that were.")
        before = list(self._scorer.judges.values())
        gone = self._scorer.judges[self._added[name].name]
        self._adopt([judge for judge in before if judge is not gone])
        try:
            await self._exchange.given_up(gone.version, self._settings.weights.wait_s)
        except BaseException:
            self._adopt(before)
            raise
        del self._added[name]
        await adaptable(self._engine).remove_adapter(name)
        return [gone]

    def _adopt(self, judges: Sequence[Judge]) -> None:
        self._scorer.exchange(judges)
        self._exchange.admit(judge.version for judge in judges)


async def read_served(settings: Settings) -> Served:
    """The configured checkpoint as it is now. Raises `StartupError`."""
    manifest = load_manifest(settings)
    plans = tuple(plan_judges(settings, manifest))
    model = settings.engine.model
    return Served(
        model, manifest, plans, await load_tokenizer(settings), await asyncio.to_thread(fingerprint_weights, model)
    )


def _with_model(settings: Settings, model: str) -> Settings:
    return settings.model_copy(update={"engine": settings.engine.model_copy(update={"model": model})})


def _outcome_of(error: ServiceError) -> ChangeOutcome:
    if isinstance(error, EngineDead):
        return "lost"
    return "rolled_back" if error.details.get("rolled_back") else "refused"


def _reason(error: Exception) -> str:
    """For people: our own sentences as they are, of anything else its kind only."""
    return error.message if isinstance(error, ServiceError) else type(error).__name__


@contextmanager
def _refused() -> Iterator[None]:
    """What would stop a start stops a change, and nothing else."""
    try:
        yield
    except (NotApplied, NotFound, EngineDead):
        raise
    except ServiceError as error:
        why = "it cannot be served" if isinstance(error, StartupError) else error.message.rstrip(".")
        log.warning("a change was refused: %s", error.message)
        raise NotApplied(f"Nothing was changed: {why}; the service's log says more.") from error


def _folder(base: Path | None, name: str, setting: str) -> Path:
    """The folder of this name. Links may point within the directory, not out of it. Raises `NotApplied`, `NotFound`."""
    if base is None:
        raise NotApplied(f"There is no directory to load from; set {setting} in the service's configuration.")
    root = base.resolve()
    path = (root / name).resolve()
    if root not in path.parents or not path.is_dir():
        raise NotFound("There is no folder of this name to load from; GET /admin/weights lists them.")
    return path


def _folders(base: Path | None) -> list[str]:
    if base is None or not base.is_dir():
        return []
    return sorted(path.name for path in base.iterdir() if path.is_dir() and not path.name.startswith("."))

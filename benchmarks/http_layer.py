"""Two servers of the same bodies, each a program of its own: this service with answers ready, and a bare FastAPI echo.

``service``: everything between the socket and the pipeline as it is in production - reading, keys, deadlines,
admission, validation, replies, metrics - around a pipeline that has one answer to everything. ``echo``: `uvicorn` as it
comes, and one route that gives the body back.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import uvicorn
import uvloop
from fastapi import FastAPI

from service.__main__ import GC_THRESHOLDS
from service.app import build_app
from service.scoring import RankOptions, Score, Scorer
from service.server import server_config
from service.settings import load_settings
from service.types import Comparison, Flag, Prompt, RankedResponse, Ranking, Response, Usage, Verdict

USAGE = Usage(prompt_tokens=700, cached_tokens=350, completion_tokens=2, comparisons=1)
VERDICT = Verdict(0.75, 1.1, 0.8, 0.7, True, 0.99, usage=USAGE)
SCORE = Score(0.75, 1.1, True, (), USAGE)
SETTINGS: dict[str, Any] = {
    "engine": {"type": "fake"},
    "store": {"type": "memory"},
    "judges": [{"name": "gram", "family": "gram"}, {"name": "gram_r2", "family": "gram_r2"}],
}


class Ready(Scorer):
    """Asks nobody."""

    async def compare(self, judge: Any, comparisons: Sequence[Comparison], **_: Any) -> list[Any]:
        return [VERDICT] * len(comparisons)

    async def rank(
        self, judge: Any, prompt: Prompt, responses: Sequence[Response], options: RankOptions, **_: Any
    ) -> tuple[Ranking, Usage]:
        results = tuple(RankedResponse(i, i, 0.5, 0.0, 0.1) for i in range(len(responses)))
        return Ranking(results, 10, "complete", 1.0), USAGE

    async def inspect(self, judge: Any, prompt: Prompt, responses: Sequence[Response]) -> list[tuple[Flag, ...]]:
        return [()] * len(responses)

    async def score_references(self, judge: Any, items: Sequence[Any], **_: Any) -> list[Any]:
        return [SCORE] * len(items)

    async def score_groups(self, judge: Any, groups: Sequence[Any], method: Any = None, **_: Any) -> list[Any]:
        return [(SCORE,) * len(responses) for _, responses in groups]


async def serve_ready(port: int) -> None:
    settings = load_settings(None, SETTINGS | {"server": {"port": port}})
    app = build_app(settings)
    async with app.router.lifespan_context(app):
        service = app.state.service
        app.state.service = replace(service, scorer=Ready(list(service.scorer.judges.values())))
        await uvicorn.Server(server_config(app, settings)).serve()


async def serve_echo(port: int) -> None:
    app = FastAPI()

    @app.get("/readyz")
    async def ready() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/{path}")
    async def echo(path: str, body: dict[str, Any]) -> dict[str, Any]:
        return body

    await uvicorn.Server(uvicorn.Config(app, port=port, access_log=False, log_level="warning")).serve()


def main() -> None:
    which, port = sys.argv[1], int(sys.argv[2])
    gc.set_threshold(*GC_THRESHOLDS)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve_ready(port) if which == "service" else serve_echo(port))


if __name__ == "__main__":
    main()

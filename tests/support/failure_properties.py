"""What happens on a bad day, over the whole service: failed rows, dead engines, callers who hang up."""

from __future__ import annotations

import asyncio
import json
from statistics import fmean, pstdev
from typing import Any

from service.engines.base import EngineRequest
from service.engines.fake import Fault, decode_bytes
from tests.support.serving import PAIR, Api, options, until


def nan_for(text: str) -> Any:
    """The fault that hits prompts holding `text`."""

    def fault(request: EngineRequest) -> Fault | None:
        return "nan" if text in decode_bytes(request.prompt_ids) else None

    return fault


async def a_failed_row_has_no_numbers_and_enters_no_window(api: Api, queue: str) -> None:
    """One of three items fails: its row holds an error and no number, and the window has two scores."""
    api.engine.options = options(fault=nan_for("Question 1"))
    items = [
        {"id": f"r{i}", "prompt": f"Question {i}", "response": f"answer {i}", "reference": f"reference {i}"}
        for i in range(3)
    ]
    reply = (await api.post("/score", {"items": items, "normalize": {"queue": queue, "min_count": 2}})).json()
    good, bad, other = reply["results"]
    assert (bad["status"], bad["score"], bad["reward"], bad["clipped"]) == ("failed", None, None, None)
    assert bad["error"]["code"] == "non_finite_score"
    scores, window = [good["score"], other["score"]], reply["queue"]
    mean, std = fmean(scores), pstdev(scores)
    assert (window["count"], window["mean"], window["std"]) == (2, mean, std)
    assert [good["reward"], other["reward"]] == [(score - mean) / std for score in scores]
    assert std > 0


async def a_dead_engine_is_not_ready(api: Api) -> None:
    """Both probes turn from yes to no. The engine of this service is dead afterwards."""
    for probe in ("/readyz", "/livez"):
        assert (await api.client.get(probe)).status_code == 200
    api.engine.die()
    for probe in ("/readyz", "/livez"):
        assert (await api.client.get(probe)).status_code == 503


async def hanging_up_empties_the_engine(api: Api) -> None:
    """A caller who closes the connection while the judge is at work is no work any more. Needs sockets."""
    api.engine.options = options(delay_s=2.0)
    host, port = api.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    body = json.dumps(PAIR).encode()
    head = f"POST /compare HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    try:
        await until(lambda: api.engine.in_flight > 0)
        writer.close()
        await until(lambda: api.engine.in_flight == 0, seconds=1.0)
    finally:
        writer.close()
        await until(lambda: api.engine.in_flight == 0)
    assert api.engine.aborted > 0

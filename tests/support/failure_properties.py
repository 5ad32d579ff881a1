"""A failed judgment is never a number, over the whole service: rows, rewards, windows."""

from __future__ import annotations

from typing import Any

from service.engines.base import EngineRequest
from service.engines.fake import Fault, decode_bytes
from tests.support.serving import Api, options


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
    assert good["reward"] == -other["reward"] != 0
    assert reply["queue"]["count"] == 2

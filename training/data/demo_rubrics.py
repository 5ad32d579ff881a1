"""Chain-of-Rubrics traces of the demo tasks (RM-R1, arXiv 2505.02387), whose every step can be checked.

A task with something to work out is Reasoning: the trace solves it first. One that is known or a matter of manners is
Chat: the trace says by what it judges. Both then quote the two answers, compare, and decide.
"""

from __future__ import annotations

from typing import Literal

from training.data.demo_tasks import ALL_TASKS, DemoPair

TaskType = Literal["reasoning", "chat"]
_CHAT = frozenset({"capitals", "categories", "opposites", "formatting", "refusals"})
TASK_TYPES: dict[str, TaskType] = {task: "chat" if task in _CHAT else "reasoning" for task in ALL_TASKS}
"""The type of every demo task."""


def trace(pair: DemoPair, right_first: bool) -> str:
    """The trace a judge should write, in the instruct template's grammar."""
    said = (pair.right_said, pair.wrong_said) if right_first else (pair.wrong_said, pair.right_said)
    better, worse = ("A", "B") if right_first else ("B", "A")
    opening = (
        f"<type>Reasoning</type>\n<solution>{pair.right_said}</solution>"
        if TASK_TYPES[pair.task] == "reasoning"
        else f"<type>Chat</type>\n<rubric>right: {pair.right_said}</rubric>"
    )
    return (
        f"{opening}\n<eval>A: <quote_A>{said[0]}</quote_A> B: <quote_B>{said[1]}</quote_B> "
        f"{better} is right, {worse} is wrong.</eval>\n<answer>[[{better}]]</answer>"
    )

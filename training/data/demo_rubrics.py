"""Chain-of-Rubrics traces of the demo tasks (RM-R1, arXiv 2505.02387), whose every step can be checked.

A task with something to work out is Reasoning: the trace solves it first. One that is known or a matter of manners is
Chat: the trace says by what it judges. Both then say what the two answers are, compare, and decide.
"""

from __future__ import annotations

from typing import Literal

from training.data.demo_tasks import ALL_TASKS, DemoPair

TaskType = Literal["reasoning", "chat"]
_CHAT = frozenset({"capitals", "categories", "opposites", "formatting", "refusals"})
TASK_TYPES: dict[str, TaskType] = {task: "chat" if task in _CHAT else "reasoning" for task in ALL_TASKS}
"""The type of every demo task."""


def trace(pair: DemoPair, right_first: bool) -> str:
    """The trace a judge should write, in the instruct template's grammar and the words of `demo_tasks.rationale`.

    The demo judge knows those words as tokens. A shorter trace learns sooner, too: tags around the quotations make it
    half as long again, and put an answer in other tokens than the ones it is compared with.
    """
    said = (pair.right_said, pair.wrong_said) if right_first else (pair.wrong_said, pair.right_said)
    better, worse = ("A", "B") if right_first else ("B", "A")
    opening = (
        f"<type>Reasoning</type>\n<solution>{pair.right_said}</solution>"
        if TASK_TYPES[pair.task] == "reasoning"
        else "<type>Chat</type>\n<rubric>The right answer.</rubric>"
    )
    facts = f"Response A says {said[0]}. Response B says {said[1]}. The right answer is {pair.right_said}."
    verdict = f"Response {better} is right, Response {worse} is wrong."
    return f"{opening}\n<eval>{facts} {verdict}</eval>\n<answer>[[{better}]]</answer>"

"""Client of the reward scoring service: typed results, retries, chunks, streams. Needs httpx and nothing else."""

from gram_client.async_client import AsyncClient
from gram_client.client import Client
from gram_client.errors import (
    Conflict,
    ConnectionLost,
    DeadlineExceeded,
    EngineUnusable,
    FailedJudgment,
    InvalidRequest,
    MalformedReply,
    NotFound,
    Overloaded,
    ScoringError,
    ServerFault,
    Unauthorized,
)
from gram_client.items import Group, Member, Normalize, Pair, Prompt, Reference, Referenced, Single
from gram_client.models import Judge, Models, Queue
from gram_client.results import (
    Flag,
    ItemError,
    JudgeVersion,
    Ranked,
    Ranking,
    Rationale,
    Reason,
    Usage,
    Verdict,
    Votes,
)
from gram_client.retries import Retries
from gram_client.scores import QueueState, Row, Scores
from gram_client.streams import Text

__all__ = [
    "AsyncClient",
    "Client",
    "Conflict",
    "ConnectionLost",
    "DeadlineExceeded",
    "EngineUnusable",
    "FailedJudgment",
    "Flag",
    "Group",
    "InvalidRequest",
    "ItemError",
    "Judge",
    "JudgeVersion",
    "MalformedReply",
    "Member",
    "Models",
    "Normalize",
    "NotFound",
    "Overloaded",
    "Pair",
    "Prompt",
    "Queue",
    "QueueState",
    "Ranked",
    "Ranking",
    "Rationale",
    "Reason",
    "Reference",
    "Referenced",
    "Retries",
    "Row",
    "Scores",
    "ScoringError",
    "ServerFault",
    "Single",
    "Text",
    "Unauthorized",
    "Usage",
    "Verdict",
    "Votes",
]

"""Replies of single requests as results. All raise `MalformedReply`."""

from __future__ import annotations

from gram_client.exchange import Reply
from gram_client.fields import Fields
from gram_client.models import Models, Queue
from gram_client.results import Rationale, Verdict


def verdict(reply: Reply) -> Verdict:
    return Verdict.from_json(reply.json())


def rationale(reply: Reply) -> Rationale:
    return Rationale.from_json(reply.json())


def models(reply: Reply) -> Models:
    return Models.from_json(reply.json())


def queues(reply: Reply) -> list[Queue]:
    return list(map(Queue.of, Fields(reply.json(), "queues").many("queues")))


def queue(reply: Reply) -> Queue:
    return Queue.of(Fields(reply.json(), "a queue"))


def deleted(reply: Reply) -> int:
    return Fields(reply.json(), "a count").whole("deleted")


def stored(reply: Reply) -> int:
    return Fields(reply.json(), "a count").whole("total")


def body(reply: Reply) -> bytes:
    return reply.body


def text(reply: Reply) -> str:
    return reply.body.decode("utf-8", "replace")

"""A process that commits to a shared store: run by tests that race several, or kill one.

``python -m tests.support.store_writer WHERE SEED COMMITS``, where WHERE is a SQLite file or a redis:// address with the
prefix after ``#``. Prints a JSON line before each commit with what is sent, and one after it with what came back.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys

from service.stores.base import QueueKey, RewardStore
from service.stores.redis import RedisStore
from service.stores.redis_link import LinkOptions
from service.stores.sqlite import SqliteStore

KEY = QueueKey("shared", "demo", "v1", "t1", "group")
WINDOW = 100


def store_at(where: str) -> RewardStore:
    """The store, not yet started; patient, since test machines are busy."""
    if where.startswith("redis://"):
        url, _, prefix = where.partition("#")
        return RedisStore(url, prefix=prefix, options=LinkOptions(30.0, 30.0))
    return SqliteStore(where, busy_timeout_s=60.0)


async def write(where: str, seed: int, commits: int) -> None:
    generator = random.Random(seed)
    store = store_at(where)
    await store.start()
    for _ in range(commits):
        scores = [generator.gauss(seed, 1.0) for _ in range(generator.randint(1, 8))]
        print(json.dumps({"sending": scores}), flush=True)
        result = await store.commit(KEY, scores, WINDOW)
        stats = [result.stats.count, result.stats.mean, result.stats.std]
        reply = {"epoch": result.epoch, "seq": [result.seq_first, result.seq_last], "stats": stats, "scores": scores}
        print(json.dumps(reply), flush=True)
    await store.close()


if __name__ == "__main__":
    asyncio.run(write(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))

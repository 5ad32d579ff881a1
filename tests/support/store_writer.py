"""A process that commits to a SQLite store: run by tests that race several, or kill one.

Prints one JSON line for each acknowledged commit: what was sent, and what came back.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys

from service.stores.base import QueueKey
from service.stores.sqlite import SqliteStore

KEY = QueueKey("shared", "demo", "v1", "t1", "group")
WINDOW = 100


async def write(path: str, seed: int, commits: int) -> None:
    generator = random.Random(seed)
    store = SqliteStore(path, busy_timeout_s=60.0)
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

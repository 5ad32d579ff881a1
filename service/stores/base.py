"""What every store promises: reward queues and idempotency records, and which of their changes are atomic.

A *queue* is the window of the last scores of one `QueueKey`. Its life from the first commit to its deletion or loss is
an *epoch*, named by a random word, in which entries are numbered 1, 2, 3 .. by ``seq`` without gaps. A *record*
remembers one keyed request for a day, so that its retry neither counts twice nor gets another answer.

The transitions of a queue and its file format stand here, pure, so that stores differ only in where bytes lie.
`tests/contract/test_store_contract.py` holds every store to this page: memory, SQLite and Redis.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Protocol

from service.errors import Conflict, InvalidInput, Overloaded, ServiceError
from service.normalization import WindowStats, check_scores, window_stats

MAX_NAME_CHARS = 128
MAX_PART_CHARS = 512
MAX_WINDOW = 100_000
MAX_SEQ = 2**53
MAX_EXPORT_BYTES = 8 * 1024 * 1024
EXPORT_FORMAT = "reward-queue"
EXPORT_VERSION = 2
"""2 added the reference window."""
RECORD_OVERHEAD_BYTES = 512
"""What a record costs beside its blobs: key, hash, index entries. An estimate, on the high side."""


@dataclass(frozen=True, slots=True, order=True)
class QueueKey:
    """Which scores belong together. Any change of judge, weights, template or kind of score is another queue, because
    scores from before and after it are not comparable. Raises `InvalidInput` for empty, long or unprintable parts."""

    name: str
    judge: str
    weight_version: str
    template_hash: str
    score_kind: str

    def __post_init__(self) -> None:
        if not _is_printable(self.name, MAX_NAME_CHARS):
            raise InvalidInput(f"Name the queue with 1 to {MAX_NAME_CHARS} printable characters.", field="queue")
        if not all(_is_printable(part, MAX_PART_CHARS) for part in astuple(self)):
            raise InvalidInput(f"Give every part of a queue key 1 to {MAX_PART_CHARS} printable characters.")


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """Bounds on what a store keeps; reaching one is an `Overloaded` error, never a silent reset or eviction.

    A queue holds at most its window (<= `MAX_WINDOW`) of 8-byte scores. ``record_ttl_s`` is seconds.
    """

    max_queues: int = 1000
    max_record_bytes: int = 1024**3
    record_ttl_s: float = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class QueueState:
    """A queue without its scores: enough to normalize with ``update: false`` and to list."""

    key: QueueKey
    epoch: str
    window: int
    seq_last: int
    stats: WindowStats


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue with its scores, oldest first: those numbered ``seq_last - len(scores) + 1 .. seq_last``.

    ``reference`` is the first full window of the epoch, the scores numbered ``1 .. window``: what later scores are
    compared with to see a drift. Empty until that many entered.
    """

    key: QueueKey
    epoch: str
    window: int
    seq_last: int
    scores: tuple[float, ...]
    reference: tuple[float, ...]

    def state(self) -> QueueState:
        return QueueState(self.key, self.epoch, self.window, self.seq_last, window_stats(self.scores))


@dataclass(frozen=True, slots=True)
class CommitResult:
    """One commit: its entries and the statistics of the window after they entered.

    ``scores`` are the ones that were counted. A ``replayed`` result is that of the first commit under this idempotency
    key; a retry must answer from it and from the draft, not from what it judged itself.
    """

    epoch: str
    seq_first: int
    seq_last: int
    stats: WindowStats
    scores: tuple[float, ...]
    replayed: bool = False
    draft: bytes | None = None


@dataclass(frozen=True, slots=True)
class IdempotencyRecord:
    """What makes a commit repeatable. ``key`` is the caller's key with route and tenant, ``body_hash`` a digest of the
    request body, ``draft`` whatever the caller needs, beside the `CommitResult`, to write its reply again."""

    key: str
    body_hash: str
    draft: bytes = b""

    def __post_init__(self) -> None:
        if not _is_printable(self.key, MAX_PART_CHARS):
            raise InvalidInput(f"Send an idempotency key of 1 to {MAX_PART_CHARS} printable characters.")


@dataclass(frozen=True, slots=True)
class Replay:
    """What is remembered of a keyed request: its finished ``reply``, or the ``commit`` of a request that was cut off
    between counting and answering (then ``commit.draft`` is set)."""

    reply: bytes | None
    commit: CommitResult | None


class RewardStore(Protocol):
    """Reward queues and idempotency records. All methods are called on one event loop.

    Atomic, against other calls, other processes on the same store and a kill: each single call. `commit` changes the
    queue and its record together or not at all. Between `commit` and `finish` a crash is possible: the record is there
    with its draft and no reply, and the retry answers from them without counting again.
    A cancelled call may have happened; the record tells.

    Errors of every method: `StoreUnavailable` when the store cannot be reached or refuses. Then nothing was changed or,
    if only the answer was lost, everything: with an idempotency key the caller may send it again either way.
    Cohorts are another protocol (`cohorts_base`); nothing here knows of them.
    """

    async def start(self) -> None:
        """Open the store. Raises `StartupError` with one sentence that says what to do."""
        ...

    async def commit(
        self, key: QueueKey, scores: Sequence[float], window: int, idempotency: IdempotencyRecord | None = None
    ) -> CommitResult:
        """Append `scores` (at least one) in order, all or none, and keep the last `window` entries of the queue.

        The first commit of an epoch fixes the window. A request with more scores than the window is allowed: all get a
        seq, the last `window` of them stay. With a known idempotency key nothing changes and the first result comes
        back as ``replayed``. Raises `Conflict` for another window, for a known key with another body and for a key
        that was answered without a commit; `Overloaded` at a limit; what `check_scores` raises; `InvalidInput`.
        """
        ...

    async def peek(self, key: QueueKey) -> QueueState | None:
        """The queue's present statistics, nothing written (``update: false``). None: no commit yet in this epoch."""
        ...

    async def list_queues(self, name: str | None = None) -> list[QueueState]:
        """All queues, or those called `name`, in key order."""
        ...

    async def get(self, key: QueueKey) -> Queue | None:
        """The queue with its scores."""
        ...

    async def delete(self, key: QueueKey) -> bool:
        """Forget the queue; the next commit starts a new epoch at seq 1. False: there was none. Records stay."""
        ...

    async def export(self, key: QueueKey) -> bytes | None:
        """The queue as canonical, versioned JSON with a checksum (see `dump_queue`). None: there is no such queue."""
        ...

    async def import_(self, data: bytes) -> QueueState:
        """Bring back an exported queue, its epoch and seq included, so that exporting it again gives the same bytes.

        Raises `InvalidInput` for corrupt, altered or other-version data (before anything is changed), `Conflict` when
        the queue exists, `Overloaded` at the queue limit.
        """
        ...

    async def begin(self, idem_key: str, body_hash: str) -> Replay | None:
        """What is remembered under this key; None: a new key. Writes nothing, so failed requests leave no trace.

        Raises `Conflict` for a known key with another body and `Overloaded` when no new record would fit.
        """
        ...

    async def finish(self, idem_key: str, body_hash: str, reply: bytes) -> bytes:
        """Keep the reply of a keyed request and return the reply that counts: the first one kept under this key.

        Of concurrent duplicates all answer with the same bytes by sending what comes back.
        Raises `Conflict` for another body, `Overloaded` when a new record does not fit.
        """
        ...

    async def ping(self) -> None:
        """Returns if the store takes writes, raises `StoreUnavailable` otherwise."""
        ...

    async def close(self) -> None:
        """Free what `start` took. May be called twice."""
        ...


def check_commit(scores: Sequence[float], window: int) -> tuple[float, ...]:
    """The scores of a commit, checked. Raises `InvalidInput` for none or a window out of range, and what
    `check_scores` raises."""
    if not scores:
        raise InvalidInput("A commit needs at least one score; peek reads without writing.")
    if not 1 <= window <= MAX_WINDOW:
        raise InvalidInput(f"Set normalize.window from 1 to {MAX_WINDOW}.", field="window")
    return check_scores(scores)


def advance(before: Queue | None, key: QueueKey, scores: tuple[float, ...], window: int) -> Queue:
    """The queue after `scores` (checked) entered it, in a new epoch when there was none.

    The reference is taken once, from the first `window` entries, however they were batched.
    Raises `Conflict` for another window or when no numbers are left.
    """
    if before is None:
        before = Queue(key, new_epoch(), window, 0, (), ())
    if before.window != window:
        raise other_window(before.window)
    if before.seq_last > MAX_SEQ - len(scores):
        raise used_up()
    entries = before.scores + scores
    reference = before.reference or (entries[:window] if len(entries) >= window else ())
    return Queue(key, before.epoch, window, before.seq_last + len(scores), entries[-window:], reference)


def new_epoch() -> str:
    """A word that no other epoch has."""
    return secrets.token_hex(8)


def reference_size(seq_last: int, window: int) -> int:
    """How many scores the reference of a queue has that counted `seq_last` entries."""
    return window if seq_last >= window else 0


def result_of(after: Queue, scores: tuple[float, ...]) -> CommitResult:
    """The result of the commit that put `scores` last into `after`."""
    first = after.seq_last - len(scores) + 1
    return CommitResult(after.epoch, first, after.seq_last, window_stats(after.scores), scores)


def other_window(window: int) -> Conflict:
    """The error of a commit with another window than the queue's."""
    return Conflict(
        f"This queue's window is {window}; send that window, or delete the queue to start another.", window=window
    )


def used_up() -> Conflict:
    """The error of a commit that would number an entry beyond `MAX_SEQ`, where floats stop telling integers apart."""
    return Conflict("This queue's numbers are used up; delete it to start another.")


def queue_exists() -> Conflict:
    """The error of an import over a queue."""
    return Conflict("This queue exists already; delete it before importing another state of it.")


def other_body() -> Conflict:
    """The error of an idempotency key that comes with another request."""
    return Conflict("This idempotency key was used for another request body; send a new key.")


def check_same_body(stored_hash: str, body_hash: str) -> None:
    """Raises `Conflict` unless the key is used again for the very same request."""
    if stored_hash != body_hash:
        raise other_body()


def already_answered() -> Conflict:
    """The error of a commit under a key whose request was already answered without one."""
    return Conflict("This idempotency key was answered already; send the request again to get that reply.")


def check_queue_room(queues: int, limits: StoreLimits) -> None:
    """Raises `Overloaded` when one more queue would pass the limit."""
    if queues >= limits.max_queues:
        raise Overloaded(f"The store holds its limit of {limits.max_queues} reward queues; delete unused ones.")


def check_record_room(kept_bytes: int, limits: StoreLimits) -> None:
    """Raises `Overloaded` when the records already fill their share; they leave by age only."""
    if kept_bytes >= limits.max_record_bytes:
        raise Overloaded("The store is full of idempotency records; raise its limit or send fewer keyed requests.")


def record_cost(draft: bytes, reply: bytes, scores: int) -> int:
    """Bytes a record is counted with."""
    return RECORD_OVERHEAD_BYTES + len(draft) + len(reply) + 8 * scores


def dump_queue(queue: Queue) -> bytes:
    """Canonical JSON of a queue: sorted keys, no spaces, shortest round-trip floats, SHA-256 over all the rest."""
    body: dict[str, object] = {
        "format": EXPORT_FORMAT,
        "version": EXPORT_VERSION,
        "key": list(astuple(queue.key)),
        "epoch": queue.epoch,
        "window": queue.window,
        "seq_last": queue.seq_last,
        "scores": list(queue.scores),
        "reference": list(queue.reference),
    }
    return _canonical(body | {"sha256": hashlib.sha256(_canonical(body)).hexdigest()})


def load_queue(data: bytes) -> Queue:
    """The queue in an export. Raises `InvalidInput`, with the reason, for anything `dump_queue` did not write."""
    body = _parse(data)
    if body.get("format") != EXPORT_FORMAT:
        raise InvalidInput("This is not an export of a reward queue.")
    if type(body.get("version")) is not int or body["version"] != EXPORT_VERSION:
        raise InvalidInput(
            f"This export has another version; this service reads version {EXPORT_VERSION}, export the queue again."
        )
    queue = _queue_of(body)
    if dump_queue(queue) != _canonical(body):
        raise InvalidInput("This export does not match its checksum; it was cut or altered, export the queue again.")
    return queue


def _parse(data: bytes) -> dict[str, object]:
    if len(data) > MAX_EXPORT_BYTES:
        raise InvalidInput(f"An export has at most {MAX_EXPORT_BYTES} bytes.")
    try:
        body = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InvalidInput("This export is not valid JSON; it was cut or altered, export the queue again.") from error
    if not isinstance(body, dict):
        raise InvalidInput("This is not an export of a reward queue.")
    return body


def _queue_of(body: dict[str, object]) -> Queue:
    """The fields with their types and ranges checked; the caller compares checksums and unknown fields."""
    key, epoch, window, seq_last = (body.get(name) for name in ("key", "epoch", "window", "seq_last"))
    scores, reference = body.get("scores"), body.get("reference")
    damaged = InvalidInput("This export has missing or impossible fields; export the queue again.")
    if not (isinstance(key, list) and len(key) == 5 and all(isinstance(part, str) for part in key)):
        raise damaged
    if not (isinstance(epoch, str) and _is_printable(epoch, 64)):
        raise damaged
    if not (isinstance(scores, list) and isinstance(reference, list)):
        raise damaged
    if type(window) is not int or type(seq_last) is not int or not 1 <= window <= MAX_WINDOW:
        raise damaged
    if not 1 <= seq_last <= MAX_SEQ or len(scores) != min(seq_last, window):
        raise damaged
    if len(reference) != reference_size(seq_last, window):
        raise damaged
    try:
        return Queue(QueueKey(*key), epoch, window, seq_last, check_scores(scores), check_scores(reference))
    except ServiceError as error:
        raise damaged from error


def _canonical(body: dict[str, object]) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":")).encode("ascii")


def _is_printable(text: str, limit: int) -> bool:
    return 1 <= len(text) <= limit and text.isprintable()

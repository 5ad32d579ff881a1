"""What every store of cohorts promises: groups whose members arrive one by one, and who may judge them.

A *cohort* is one attempt at one group: ``size`` places, each taken by one response. It is *open* while members come,
*closed* once its members are fixed (all came, or its deadline passed with enough of them), *judged* when it has a
result. Judging is leased: whoever holds the lease works, and when the lease runs out another may. A failure ends a
*round*: those who wait are told, the responses stay, and whoever sends its member again begins the next round. Members
once fixed stay fixed, so that no second judging can count other members than the first.

The transitions stand here, pure; a store applies them atomically. `tests/contract/test_cohort_contract.py` holds every
store to this page.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from service.errors import Conflict, InvalidInput, Overloaded

MAX_SIZE = 64
MEMBER_OVERHEAD_BYTES = 160
COHORT_OVERHEAD_BYTES = 1024
"""What a member and a cohort cost beside their texts. Estimates, on the high side."""

Clash = Literal["size", "prompt", "rules", "response", "closed"]
CLASHES: dict[Clash, str] = {
    "size": "This group has another size; send every member with the same one, or a new attempt.",
    "prompt": "This group has another prompt; send every member with the same one, or a new attempt.",
    "rules": "This group was begun with another normalize; send every member with the same one, or a new attempt.",
    "response": "This place of the group holds another response; send that response again, or a new attempt.",
    "closed": "The group was closed and judged without this member; send the whole group as a new attempt.",
}


def digest(*parts: object) -> str:
    """SHA-256 in hex of JSON-able parts; parts never run into each other."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Terms:
    """What all members of a cohort must agree on: its size, and digests of the prompt and of all else that the answer
    depends on. Raises `InvalidInput`."""

    size: int
    prompt: str
    rules: str = ""

    def __post_init__(self) -> None:
        if not 2 <= self.size <= MAX_SIZE:
            raise InvalidInput(f"A group has 2 to {MAX_SIZE} members; correct its size.", field="size")


@dataclass(frozen=True, slots=True)
class Member:
    """One response and its place, counted from 0."""

    index: int
    response: str

    @property
    def digest(self) -> str:
        return digest(self.response)

    @property
    def cost(self) -> int:
        """Bytes it takes in a store."""
        return MEMBER_OVERHEAD_BYTES + len(self.response.encode())


@dataclass(frozen=True, slots=True)
class Policy:
    """What a passed deadline means. ``partial``: those who came are judged if they are ``quorum`` or more."""

    partial: bool = True
    quorum: int = 2

    @property
    def least(self) -> int:
        """Members that make a group; more than `MAX_SIZE` where only complete groups are judged."""
        return max(2, self.quorum) if self.partial else MAX_SIZE + 1


@dataclass(frozen=True, slots=True)
class CohortLimits:
    """Bounds on what a store keeps; reaching one is an `Overloaded` error, never a silent eviction. A cohort is
    forgotten ``keep_s`` seconds after its last member, deadline, failure or result."""

    max_cohorts: int = 65_536
    max_bytes: int = 256 * 1024**2
    keep_s: float = 600.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A cohort as those who wait see it. Times are seconds from now; infinite: never; not positive: passed.

    ``version`` changes with every change but a renewed lease; ``failure`` is that of the last round that failed.
    """

    version: int
    round: int
    size: int
    present: tuple[int, ...]
    closed: bool
    deadline_in_s: float
    lease_in_s: float
    result: bytes | None
    failure: bytes | None

    @property
    def is_ready(self) -> bool:
        """Its members are fixed and nobody has judged them."""
        return self.closed and self.result is None


@dataclass(frozen=True, slots=True)
class Expired:
    """A cohort after its deadline was looked at. ``failed``: this very call ended its round."""

    snapshot: Snapshot
    failed: bool
    assembly_s: float


@dataclass(frozen=True, slots=True)
class Gathered:
    """A closed cohort in the hands of its judge: responses by index, and the seconds it took to assemble."""

    size: int
    responses: Mapping[int, str]
    assembly_s: float


@dataclass(frozen=True, slots=True)
class Cohort:
    """The whole state; times are on the store's clock. ``deadline_at`` is infinite between a failed round and its next
    member. Responses are dropped when the result is there; digests stay, to know duplicates by."""

    terms: Terms
    digests: Mapping[int, str]
    responses: Mapping[int, str]
    opened_at: float
    deadline_at: float = math.inf
    version: int = 0
    round: int = 0
    failure: bytes | None = None
    closed: bool = False
    assembly_s: float = 0.0
    token: str | None = None
    lease_until: float = 0.0
    result: bytes | None = None

    @property
    def cost(self) -> int:
        """Bytes it takes in a store."""
        texts = sum(len(text.encode()) for text in self.responses.values())
        kept = len(self.result or b"") + len(self.failure or b"")
        return COHORT_OVERHEAD_BYTES + len(self.digests) * MEMBER_OVERHEAD_BYTES + texts + kept

    def seen(self, now: float) -> Snapshot:
        return Snapshot(
            self.version,
            self.round,
            self.terms.size,
            tuple(sorted(self.digests)),
            self.closed,
            self.deadline_at - now,
            self.lease_until - now if self.token is not None else 0.0,
            self.result,
            self.failure,
        )


class CohortStore(Protocol):
    """Cohorts by the digest that identifies them. Each call is atomic against others, other replicas and a kill.

    Errors of every method: `StoreUnavailable` when the store cannot be reached.
    """

    async def start(self) -> None:
        """Open the store. Raises `StartupError`."""
        ...

    async def join(self, key: str, terms: Terms, member: Member, wait_s: float) -> Snapshot:
        """Enter a member that waits at most `wait_s` for the others; the same member again changes nothing but the
        deadline. The last one to come closes the cohort.

        Raises `Conflict` (see `CLASHES`), `InvalidInput` for an index outside the size, `Overloaded` at a limit; then
        nothing has changed.
        """
        ...

    async def look(self, key: str) -> Snapshot | None:
        """The cohort as it is; None: there is none (never was, or forgotten)."""
        ...

    async def wait(self, key: str, version: int, seconds: float) -> Snapshot | None:
        """`look` as soon as the version is another one, at the latest after `seconds`."""
        ...

    async def expire(self, key: str, policy: Policy, failure: bytes) -> Expired | None:
        """Apply a deadline that has passed: close the cohort, or end the round with `failure`; else change nothing."""
        ...

    async def claim(self, key: str, token: str, lease_s: float) -> Gathered | None:
        """Take a ready cohort that nobody is judging. None: not ready, or taken."""
        ...

    async def renew(self, key: str, token: str, lease_s: float) -> bool:
        """Keep it for another `lease_s`. False: it is no longer this judge's."""
        ...

    async def release(self, key: str, token: str) -> None:
        """Leave it to another judge at once."""
        ...

    async def fail(self, key: str, token: str, failure: bytes) -> bool:
        """End the round with `failure`. False: it is no longer this judge's, and nothing has changed."""
        ...

    async def finish(self, key: str, token: str, result: bytes) -> tuple[bytes, bool]:
        """Keep the result; returns the one that counts, the first, and whether it is this one.

        A judge whose lease ran out may still be the first. A forgotten cohort stays forgotten.
        """
        ...

    async def close(self) -> None:
        """Free what `start` took; those who wait get `StoreUnavailable`. May be called twice."""
        ...


def clash(kind: Clash) -> Conflict:
    """The error for a member that does not fit its cohort."""
    return Conflict(CLASHES[kind], clash=kind)


def check_index(terms: Terms, member: Member) -> None:
    """Raises `InvalidInput` for a place that the group does not have."""
    if not 0 <= member.index < terms.size:
        raise InvalidInput("The index lies outside the group; count the members from 0.", field="index")


def check_room(cohorts: int, kept_bytes: int, limits: CohortLimits) -> None:
    """Raises `Overloaded` when the counts after a change pass a limit."""
    if cohorts > limits.max_cohorts or kept_bytes > limits.max_bytes:
        raise Overloaded("The service holds its limit of groups in assembly; try again later.", retry_after_s=5)


def joined(before: Cohort | None, terms: Terms, member: Member, wait_s: float, now: float) -> Cohort:
    """The cohort with `member` in it. Raises `Conflict`."""
    cohort = before or Cohort(terms, {}, {}, now)
    clashing: tuple[tuple[Clash, bool], ...] = (
        ("size", cohort.terms.size != terms.size),
        ("prompt", cohort.terms.prompt != terms.prompt),
        ("rules", cohort.terms.rules != terms.rules),
        ("response", cohort.digests.get(member.index, member.digest) != member.digest),
        ("closed", cohort.closed and member.index not in cohort.digests),
    )
    for kind, clashes in clashing:
        if clashes:
            raise clash(kind)
    if cohort.closed:
        return cohort
    opened_at = now if cohort.deadline_at == math.inf else cohort.opened_at  # a round begins with its first member
    deadline_at = min(cohort.deadline_at, now + wait_s)
    digests = {**cohort.digests, member.index: member.digest}
    responses = {**cohort.responses, member.index: member.response}
    after = replace(
        cohort,
        opened_at=opened_at,
        deadline_at=deadline_at,
        digests=digests,
        responses=responses,
        version=cohort.version + 1,
    )
    return closed(after, now) if len(digests) == terms.size else after


def closed(cohort: Cohort, now: float) -> Cohort:
    """Its members are those who came."""
    return replace(cohort, closed=True, assembly_s=now - cohort.opened_at, version=cohort.version + 1)


def expired(cohort: Cohort, policy: Policy, failure: bytes, now: float) -> Cohort:
    """After its deadline, if that has passed while it was open; else unchanged."""
    if cohort.closed or now < cohort.deadline_at:
        return cohort
    after = closed(cohort, now)
    return after if len(cohort.digests) >= policy.least else replace(failed(after, failure), closed=False)


def failed(cohort: Cohort, failure: bytes) -> Cohort:
    """The next round: the members stay, nobody judges, the deadline waits for the next member."""
    return replace(
        cohort, round=cohort.round + 1, failure=failure, deadline_at=math.inf, token=None, version=cohort.version + 1
    )


def claimed(cohort: Cohort, token: str, lease_s: float, now: float) -> Cohort | None:
    """In the hands of `token`; None where it is not to be had."""
    if not cohort.closed or cohort.result is not None or (cohort.token is not None and now < cohort.lease_until):
        return None
    return replace(cohort, token=token, lease_until=now + lease_s, version=cohort.version + 1)


def finished(cohort: Cohort, result: bytes) -> Cohort:
    """With the result, which is final, and without the responses."""
    return replace(cohort, result=result, responses={}, token=None, version=cohort.version + 1)

"""Near-duplicates by MinHash (Broder 1997; word 5-grams and a Jaccard similarity of 0.8 as in arXiv 2107.06499).

Two pairs are near-duplicates when their prompts are alike and each response of one is like a response of the other:
many pairs of one prompt, or of one answer, are no duplicates. Signatures are compared only where a band of them is
equal (locality-sensitive hashing). 64 hashes estimate a similarity of 0.8 within 0.05 (one standard deviation).

Forty lines of numpy instead of a library: datasketch keeps an object and a set of buckets a text, knows nothing of
pairs, and takes ten times longer to hash; here a signature is a row of an array.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from training.data.pairs import Pair
from training.data.texts import whole_text, words

Signature = NDArray[np.uint32]
"""[hashes], or [texts, hashes] for many."""

Alike = Callable[[int, NDArray[np.int64]], NDArray[np.bool_]]
"""Of a row and some earlier ones: which of these it is like."""

HASHES = 64
SHINGLE_WORDS = 5
_BAND_ROWS = 4
_LOOK_BACK = 1000
"""Within one bucket, so many earlier ones are compared: a bucket of thousands is boilerplate, and stays linear."""

_RANDOM = np.random.default_rng(20210714)
_FACTORS = _RANDOM.integers(1, 2**63, HASHES, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
_OFFSETS = _RANDOM.integers(0, 2**63, HASHES, dtype=np.uint64)
_POWERS = np.array([1, 1_000_003, 1_000_003**2, 1_000_003**3 % 2**64, 1_000_003**4 % 2**64], dtype=np.uint64)


@lru_cache(maxsize=4096)  # a response is in many pairs of its prompt
def signature(text: str) -> Signature:
    """MinHash [HASHES] of a text's word 5-grams; of all its words together when there are fewer."""
    hashes = np.array([zlib.crc32(word.encode("utf-8", "surrogatepass")) for word in words(text)], dtype=np.uint64)
    size = min(SHINGLE_WORDS, len(hashes))
    if size == 0:
        hashes, size = np.array([zlib.crc32(text.strip().encode("utf-8", "surrogatepass"))], dtype=np.uint64), 1
    grams = np.zeros(len(hashes) - size + 1, dtype=np.uint64)
    for place in range(size):
        grams += hashes[place : len(hashes) - size + 1 + place] * _POWERS[place]
    grams ^= grams >> np.uint64(29)  # multiply-shift reads the high bits, polynomials are poor in them
    grams *= np.uint64(0xBF58476D1CE4E5B9)
    grams >>= np.uint64(32)
    spread = _FACTORS[:, None] * grams[None, :] + _OFFSETS[:, None]
    lowest: Signature = (spread.min(axis=1) >> np.uint64(32)).astype(np.uint32)
    return lowest


def similarity(first: Signature, second: Signature) -> NDArray[np.float64]:
    """Estimated Jaccard similarity, over the last axis."""
    return np.asarray((first == second).mean(axis=-1))


@dataclass(slots=True)
class Signatures:
    """Prompts and responses of many pairs, 768 bytes a pair."""

    prompts: list[Signature] = field(default_factory=list)
    firsts: list[Signature] = field(default_factory=list)
    seconds: list[Signature] = field(default_factory=list)

    def add(self, pair: Pair) -> None:
        self.prompts.append(signature(whole_text(pair.prompt)))
        self.firsts.append(signature(pair.response_a))
        self.seconds.append(signature(pair.response_b))

    def near_pairs(self, threshold: float) -> dict[int, int]:
        """Index of each pair that is like an earlier one, and of that one."""
        if not self.prompts:
            return {}
        prompts, firsts, seconds = (np.stack(part) for part in (self.prompts, self.firsts, self.seconds))

        def alike(later: int, earlier: NDArray[np.int64]) -> NDArray[np.bool_]:
            straight = np.minimum(
                similarity(firsts[earlier], firsts[later]), similarity(seconds[earlier], seconds[later])
            )
            crossed = np.minimum(
                similarity(firsts[earlier], seconds[later]), similarity(seconds[earlier], firsts[later])
            )
            responses = np.maximum(straight, crossed)
            return np.asarray(np.minimum(responses, similarity(prompts[earlier], prompts[later])) >= threshold)

        both = np.minimum(firsts, seconds)  # the signature of both responses together
        found: dict[int, int] = {}
        for run in _buckets((prompts, both)):
            _match(run, alike, found)
        return found

    def near_prompts(self, threshold: float) -> dict[int, int]:
        """Index of each pair whose prompt is like that of an earlier pair, and of that one."""
        if not self.prompts:
            return {}
        prompts = np.stack(self.prompts)
        found: dict[int, int] = {}
        for run in _buckets((prompts,)):
            _match(run, lambda later, earlier: similarity(prompts[earlier], prompts[later]) >= threshold, found)
        return found


def _buckets(parts: Sequence[Signature]) -> Iterator[NDArray[np.int64]]:
    """Ascending indices of rows that agree in all of one band."""
    for start in range(0, HASHES, _BAND_ROWS):
        band = np.ascontiguousarray(np.concatenate([part[:, start : start + _BAND_ROWS] for part in parts], axis=1))
        keys = band.view(np.dtype((np.void, band.dtype.itemsize * band.shape[1]))).ravel()
        _, bucket, sizes = np.unique(keys, return_inverse=True, return_counts=True)
        order = np.argsort(bucket, kind="stable")
        ends = np.cumsum(sizes)
        for which in np.flatnonzero(sizes > 1):
            yield order[ends[which] - sizes[which] : ends[which]]


def _match(run: NDArray[np.int64], alike: Alike, found: dict[int, int]) -> None:
    for place in range(1, len(run)):
        later = int(run[place])
        if later not in found:
            earlier = run[max(0, place - _LOOK_BACK) : place]
            matches = earlier[alike(later, earlier)]
            if len(matches):
                found[later] = int(matches[0])

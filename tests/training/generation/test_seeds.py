"""Seeds follow from their parts alone."""

from __future__ import annotations

import itertools

from service.engines.base import SEEDS
from training.generation.seeds import seed_of


def test_seeds_do_not_change_between_versions() -> None:
    """Files made before an update go on after it."""
    assert seed_of("row-1", 0, "ab", 3) == 3302527412731503242


def test_every_part_its_kind_and_its_place_count() -> None:
    parts: list[tuple[str | int, ...]] = [(), ("",), ("a",), ("a", ""), ("", "a"), (1,), ("1",), (1, 2), (2, 1), (12,)]
    seeds = [seed_of(*some) for some in parts]
    assert len(set(seeds)) == len(parts)
    assert all(0 <= seed < SEEDS for seed in seeds)


def test_seeds_fill_their_range() -> None:
    seeds = [seed_of("row", i, order, vote) for i, order, vote in itertools.product(range(50), ("ab", "ba"), range(8))]
    assert len(set(seeds)) == 800
    assert 0.45 < sum(seed / SEEDS for seed in seeds) / 800 < 0.55


def test_any_text_is_a_part() -> None:
    assert seed_of("\ud800") != seed_of("?")

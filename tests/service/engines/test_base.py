from __future__ import annotations

import time
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engines.base import (
    EngineInfo,
    EngineRequest,
    ProgressMeter,
    Repetition,
    fingerprint_weights,
    goes_round,
    require_model,
    room_for,
)
from service.errors import StartupError
from tests.support.properties import bar


def _checkpoint(folder: Path, weights: bytes) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def test_equal_weights_have_equal_names_wherever_they_lie(tmp_path: Path) -> None:
    a, b = _checkpoint(tmp_path / "a", b"x" * 100), _checkpoint(tmp_path / "b", b"x" * 100)
    (b / "README.md").write_text("Not part of the model.")
    assert fingerprint_weights(str(a)) == fingerprint_weights(str(b))


@pytest.mark.parametrize("place", [0, 3 * 2**20, 6 * 2**20 - 1])
def test_retrained_weights_of_the_same_size_have_another_name(tmp_path: Path, place: int) -> None:
    """Training changes bytes everywhere; here a stretch of 512 KiB around each probe place, in a file of 6 MiB."""
    before = bytearray(6 * 2**20)
    after = bytearray(before)
    start = min(max(0, place - 2**18), len(after) - 2**19)
    after[start : start + 2**19] = b"\1" * 2**19
    names = {fingerprint_weights(str(_checkpoint(tmp_path / n, bytes(w)))) for n, w in (("a", before), ("b", after))}
    assert len(names) == 2


def test_another_configuration_is_another_model(tmp_path: Path) -> None:
    a, b = _checkpoint(tmp_path / "a", b"x"), _checkpoint(tmp_path / "b", b"x")
    (b / "config.json").write_text('{"rope_theta": 1}')
    assert fingerprint_weights(str(a)) != fingerprint_weights(str(b))


def test_a_hub_id_names_itself() -> None:
    assert fingerprint_weights("some-organisation/some-judge") == "some-organisation/some-judge"


@pytest.mark.parametrize("model", ["/nowhere/at/all", "./not-here"])
def test_a_missing_directory_stops_the_start(model: str) -> None:
    with pytest.raises(StartupError, match="There is no model"):
        require_model(model)


def test_a_directory_without_a_model_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"config\.json"):
        require_model(str(tmp_path))
    require_model("some-organisation/some-judge")


def test_an_idle_engine_never_stalls_and_a_busy_one_counts_from_its_last_output() -> None:
    meter = ProgressMeter()
    assert meter.progress.stalled_s(time.monotonic() + 3600) == 0.0
    with meter.request():
        started = meter.progress.since
        assert meter.progress.unfinished == 1
        assert meter.progress.stalled_s(started + 7) == 7
        time.sleep(0.01)
        meter.moved()
        assert meter.progress.since > started
        moved = meter.progress.since
        with meter.request():
            assert meter.progress.since == moved  # new work does not hide that old work is stuck
    assert meter.progress.unfinished == 0


def test_work_after_a_long_rest_is_not_a_stall() -> None:
    meter = ProgressMeter()
    before = meter.progress.since
    time.sleep(0.01)
    with meter.request():
        assert meter.progress.since > before


def test_a_failed_request_is_finished_too() -> None:
    meter = ProgressMeter()
    with pytest.raises(ValueError, match="x"), meter.request():
        raise ValueError("x")
    assert meter.progress.unfinished == 0


def test_versions_differ_by_adapter() -> None:
    info = EngineInfo("e", "m", 100, "w1", "float32", {"a": "v1"})
    assert (info.version_of(None), info.version_of("a")) == ("w1", "w1+v1")


def test_room_is_what_the_context_leaves() -> None:
    info = EngineInfo("e", "m", 100, "w1", "float32")
    assert room_for(EngineRequest((1,) * 90, "generate", max_tokens=50), info) == 10
    assert room_for(EngineRequest((1,) * 90, "generate", max_tokens=5), info) == 5


RULES = st.builds(
    lambda times, shortest, more: Repetition(times, shortest, shortest + more),
    st.integers(2, 4),
    st.integers(1, 4),
    st.integers(0, 6),
)


@bar(10_000)
@given(st.lists(st.integers(0, 2), max_size=40), RULES)
def test_going_round_is_one_piece_said_several_times_at_the_end(ids: list[int], rule: Repetition) -> None:
    sizes = [n for n in range(rule.shortest, rule.longest + 1) if n * rule.times <= len(ids)]
    assert goes_round(ids, rule) == any(ids[-n * rule.times :] == ids[-n:] * rule.times for n in sizes)


@pytest.mark.vllm
def test_going_round_is_what_vllm_calls_so() -> None:
    from vllm.sampling_params import RepetitionDetectionParams
    from vllm.v1.core.sched.utils import check_sequence_repetition

    random = Random(5)
    found = 0
    for _ in range(2000):
        rule = Repetition(random.randint(2, 4), shortest := random.randint(1, 4), shortest + random.randint(0, 6))
        piece = [random.randrange(3) for _ in range(random.randint(1, 8))]
        ids = [random.randrange(3) for _ in range(5)] + piece * random.randint(1, 5)
        params = RepetitionDetectionParams(rule.longest, rule.shortest, rule.times)
        assert goes_round(ids, rule) == check_sequence_repetition(ids, params)
        found += goes_round(ids, rule)
    assert 200 < found < 1800


@pytest.mark.parametrize("period", [1, 2, 7, 31, 32, 33, 50, 63])
def test_a_loop_of_any_period_up_to_the_longest_piece_is_seen(period: int) -> None:
    """After four pieces of 32 to 63 tokens, and not before."""
    rule, ids = Repetition(4), [n % period for n in range(400)]
    seen = next(n for n in range(1, 400) if goes_round(ids[:n], rule))
    assert 4 * 32 <= seen <= 4 * 63
    assert seen == 4 * min(n for n in range(32, 64) if n % period == 0)


def test_rulers_and_long_numbers_are_no_loops() -> None:
    assert not goes_round([7] * 127, Repetition(4))
    assert goes_round([7] * 128, Repetition(4))
    assert not goes_round([7] * 4000, None)

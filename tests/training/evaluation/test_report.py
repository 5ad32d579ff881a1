"""The judge report: every number from verdicts whose answer is known, and a page that nothing in a text can break."""

from __future__ import annotations

import asyncio
import json
import math
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np
import pytest

from service.aggregation import combine
from service.types import OrderReading, Prompt, Usage, Verdict
from tests.support.serving import serving
from training.data.pairs import Pair, PairLabel, write_pairs
from training.evaluation.items import Failure, Item, Judged
from training.evaluation.judges.http import ServiceJudge
from training.evaluation.report import findings
from training.evaluation.report.findings import cross_fitted, find, regression
from training.evaluation.report.page import cell, markdown, numbers, write_report
from training.evaluation.report.panels import PANELS, pictures
from training.evaluation.report.story import Subject, cards, examples, sections, shortened
from training.evaluation.report.throughput import MeteredJudge, Spent, kept, record

SUBJECT = Subject("gram", "gram@v1/t1", "http://127.0.0.1:8000", "pairs.jsonl", "0" * 64, "today", 2.0, 4)
EVIL = '<script>alert("x")</script> | **bold** [link](http://evil.example) `code` & <img src=x onerror=y>'


def sigmoid(odds: float) -> float:
    return 1.0 / (1.0 + math.exp(-odds))


def judged(
    quality: float,
    bias: float = 0.0,
    *,
    label: str = "a",
    name: str = "p",
    words: tuple[int, int] = (5, 5),
    group: str = "",
) -> Judged:
    """A pair judged at log-odds ``quality`` for A, ``bias`` more for whichever stands first."""
    pair = Pair(name, Prompt.from_text(f"q {group or name}"), "a" * words[0], "b" * words[1], label, group=group)  # type: ignore[arg-type]
    orders = [OrderReading(sigmoid(odds), odds, 0.9) for odds in (quality + bias, -quality + bias)]
    return Judged(Item(pair), combine(*orders))


def failed(name: str) -> Judged:
    return Judged(Item(Pair(name, Prompt.from_text(name), "x", "y", "a")), Failure("token_limit", "too long"))


def simulated(count: int, bias: float, per_doubling: float, seed: int = 0) -> list[Judged]:
    """A judge of known biases: 1.5 nats for the better response, so many for a doubling, so many for the place."""
    rng = Random(seed)
    out = []
    for i in range(count):
        label = rng.choice("ab")
        words = rng.choice((10, 20, 40, 80)), rng.choice((10, 20, 40, 80))
        quality = (1.5 if label == "a" else -1.5) + per_doubling * math.log2(words[0] / words[1]) + rng.gauss(0, 0.3)
        out.append(judged(quality, bias, label=label, name=str(i), words=words))
    return out


# --- the numbers -----------------------------------------------------------------------------------------------------


def test_accuracy_flips_and_failures_by_hand() -> None:
    """Right, right, wrong in both orders, decided by the order (average right), failed: 3/5; 5/10 orders; 2/5 both."""
    found = find(
        [
            judged(2, name="1"),
            judged(-2, label="b", name="2"),
            judged(-3, name="3"),
            judged(0.5, 1, name="4"),
            failed("5"),
        ]
    )
    assert (found.pairs, found.prompts, found.ties, found.failures) == (5, 5, 0, (("token_limit", 1),))
    assert found.accuracy.value == pytest.approx(3 / 5)
    assert found.single.value == pytest.approx(5 / 10)
    assert found.both.value == pytest.approx(2 / 5)
    assert found.flips.value == pytest.approx(1 / 4)
    assert [one.pair.id for one in found.worst] == ["3"]
    assert found.worst[0].confidence == pytest.approx(sigmoid(3))
    assert found.calibration is None, "four verdicts are too few"


def test_a_tie_is_not_right() -> None:
    found = find([judged(0.0, name="1"), judged(1.0, name="2")])
    assert (found.ties, found.accuracy.value) == (1, 0.5)
    assert not found.worst


@pytest.mark.parametrize(("bias", "per_doubling"), [(0.0, 0.0), (0.8, 0.0), (-0.4, 0.5), (0.2, -0.7)])
def test_known_biases_are_found(bias: float, per_doubling: float) -> None:
    found = find(simulated(400, bias, per_doubling))
    assert found.position.bias.value == pytest.approx(bias, abs=1e-9)
    slope = found.length.slope
    assert slope is not None
    assert slope.low <= per_doubling <= slope.high
    assert slope.high - slope.low < 0.1
    favours = [one.accuracy.value for one in found.length.bins]
    if per_doubling > 0.3:
        assert favours[0] < favours[-1]


def test_the_length_slope_is_cleaned_of_the_label() -> None:
    """Where the better response tends to be longer, a judge of quality alone must show no taste for length."""
    rng, rows = Random(3), []
    for i in range(400):
        label = rng.choice("ab")
        longer = (80, 10) if (label == "a") == (rng.random() < 0.9) else (10, 80)
        quality = (2.0 if label == "a" else -2.0) + rng.gauss(0, 0.5)
        rows.append(judged(quality, label=label, name=str(i), words=longer))
    slope = find(rows).length.slope
    assert slope is not None
    assert slope.low <= 0 <= slope.high
    assert abs(slope.value) < 0.05


def test_calibration_finds_the_temperature_and_cross_fitting_keeps_it_honest() -> None:
    """Labels drawn at a third of the stated log-odds: the best temperature is 3."""
    rng, rows = Random(1), []
    for i in range(1500):
        true = rng.uniform(-2.5, 2.5)
        rows.append(judged(3 * true, label="a" if rng.random() < sigmoid(true) else "b", name=str(i)))
    calibrated = find(rows).calibration
    assert calibrated is not None
    assert calibrated.measured.temperature == pytest.approx(3.0, rel=0.15)
    assert calibrated.ece_after < 0.5 * calibrated.measured.ece
    assert calibrated.ece_low < calibrated.measured.ece < calibrated.ece_high


def test_cross_fitting_never_uses_a_prompts_own_pairs() -> None:
    """One prompt is hopelessly over-confident: the others' temperature, which knows nothing of it, is applied to it."""
    odds = np.array([4.0, 4.0, -1.0, 1.0, 2.0, -2.0, 1.5, 2.5])
    groups = ["odd", "odd", *"abcdef"]
    changed = odds.copy()
    changed[:2] = [-400.0, 300.0]
    ratio = cross_fitted(changed, groups)[:2] / changed[:2]
    np.testing.assert_allclose(ratio, cross_fitted(odds, groups)[:2] / odds[:2])


def test_regression_is_least_squares_with_clustered_intervals() -> None:
    """Doubling every row inside its cluster changes no estimate and no interval."""
    rng = np.random.default_rng(5)
    features = rng.normal(size=(60, 2))
    values = features @ [2.0, -1.0] + rng.normal(size=60)
    groups = [str(i % 20) for i in range(60)]
    once = regression(features, values, groups)
    expected = np.linalg.lstsq(features, values, rcond=None)[0]
    assert [e.value for e in once] == pytest.approx(expected.tolist())
    twice = regression(np.vstack([features] * 2), np.concatenate([values] * 2), groups * 2)
    assert [(e.low, e.high) for e in twice] == [pytest.approx((e.low, e.high)) for e in once]
    assert all(e.low < true < e.high for e, true in zip(once, (2.0, -1.0), strict=True))


def test_subsets_are_told_apart_and_one_alone_is_none() -> None:
    rows = [judged(1 if i % 3 else -1, name=str(i)) for i in range(30)]
    assert find(rows).divisions == ()
    named = [
        Judged(Item(Pair(str(i), r.item.pair.prompt, "x", "y", "a", subset="xyz"[i % 3])), r.outcome)
        for i, r in enumerate(rows)
    ]
    found = {one.name: one for one in find(named).divisions}
    assert found["x"].accuracy.value == 0.0
    assert found["y"].accuracy.value == 1.0
    assert found["y"].pairs == 10


def test_nothing_judged_is_no_report() -> None:
    with pytest.raises(ValueError, match="Not one pair"):
        find([failed("1"), failed("2")])


# --- the page --------------------------------------------------------------------------------------------------------


def _evil() -> list[Judged]:
    rows = simulated(30, 0.1, 0.1)
    pair = Pair(EVIL, Prompt.from_text(EVIL), EVIL, EVIL + "2", "b", subset=EVIL)
    outcome = combine(OrderReading(0.99, 4.6, 0.9), OrderReading(0.01, -4.6, 0.9))
    return [*rows, Judged(Item(pair), outcome)]


def test_no_text_becomes_markup(tmp_path: Path) -> None:
    write_report(tmp_path, find(_evil()), Spent(31, 2.0, 3000, 1000, 62), SUBJECT)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "&lt;script&gt;alert" in page
    for broken in ("<script", "<img src=x", 'href="', "onerror=y>"):
        assert broken not in page
    assert re.findall(r'src="(?!data:image/png;base64,)', page) == []
    assert not re.search(r"https?://(?!127\.0\.0\.1:8000|evil\.example)", page), "the page asks nobody"
    told = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "<script" not in told
    assert "[link](http" not in told
    rows = [line for line in told.splitlines() if "&lt;script" in line]
    assert rows
    assert all(line.startswith("| ") and line.endswith(" |") for line in rows)
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["findings"]["pairs"] == 31
    assert sorted(path.stem for path in (tmp_path / "plots").iterdir()) == sorted([*PANELS, "overview"])


def test_a_cell_keeps_its_row() -> None:
    assert cell("a|b\nc\u2028d\\|e") == "a&#124;b<br>c<br>d&#92;&#124;e"


def test_every_picture_can_be_drawn_from_the_least_there_is() -> None:
    """One pair, no label mass, no calibration, no subsets."""
    verdict = Verdict(0.9, 2.2, 0.9, 0.1, True, None)
    found = find([Judged(Item(Pair("1", Prompt.from_text("q"), "x", "y", "a")), verdict)])
    assert found.length.slope is None
    drawn = pictures(found)
    assert all(picture.startswith(b"\x89PNG") for picture in drawn.values())
    told = markdown(SUBJECT, cards(found, Spent(), SUBJECT), sections(found, Spent(), SUBJECT), examples(found.worst))
    assert "Too few verdicts" in told
    assert "reads no label" in told
    assert "It was not wrong once" in told
    json.dumps(numbers(found, Spent(), SUBJECT), allow_nan=False)


def test_long_texts_keep_beginning_and_end() -> None:
    text = shortened("begin " + "x" * 5000 + " end")
    assert text.startswith("begin")
    assert text.endswith(" end")
    assert "characters" in text
    assert len(text) < 800
    assert shortened("short") == "short"


# --- speed and price -------------------------------------------------------------------------------------------------


class Slow:
    """Answers after a pause, with tokens."""

    name, version = "slow", "slow@1"

    async def judge(self, pairs: Sequence[Pair]) -> list[Verdict | Failure]:
        await asyncio.sleep(0.05)
        usage = Usage(100, 40, 2, 1)
        return [Verdict(0.9, 2.2, 0.9, 0.1, True, 0.99, usage=usage) for _ in pairs]


async def test_requests_at_the_same_time_count_once() -> None:
    judge = MeteredJudge(Slow())
    pairs = [judged(1).item.pair] * 3
    await asyncio.gather(*(judge.judge(pairs) for _ in range(4)))
    assert judge.spent.pairs == 12
    assert (judge.spent.prompt_tokens, judge.spent.completion_tokens) == (1200, 24)
    assert 0.05 <= judge.spent.seconds < 0.15


def test_times_of_an_interrupted_run_are_kept_by_judge(tmp_path: Path) -> None:
    path = tmp_path / "throughput.jsonl"
    assert kept(path, "a") == Spent()
    for version, pairs in (("a", 10), ("b", 99), ("a", 30), ("a", 0)):
        record(path, version, Spent(pairs, pairs / 20, 7 * pairs))
    spent = kept(path, "a")
    assert (spent.pairs, spent.seconds, spent.prompt_tokens) == (40, 2.0, 280)
    assert spent.pairs_per_second == 20
    assert spent.cost_per_thousand(3.6) == pytest.approx(1000 / 20 / 3600 * 3.6)


async def test_a_service_tells_its_tokens() -> None:
    async with serving() as api:
        judge = MeteredJudge(await ServiceJudge.connect(api.client))
        await judge.judge([judged(1).item.pair])
    assert judge.spent.prompt_tokens > 100
    assert judge.spent.pairs == 1


# --- the command -----------------------------------------------------------------------------------------------------


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "training", "judge-report", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=110)


def _pairs(path: Path) -> Path:
    labels: tuple[PairLabel, PairLabel] = ("a", "b")
    rows = [
        Pair(f"p{i}", Prompt.from_text(f"Question {i % 9}?"), "x" * (i % 7 + 1), "y" * 4, labels[i % 2])
        for i in range(40)
    ]
    write_pairs(path, rows)
    return path


@pytest.mark.slow
def test_the_command_writes_a_page_and_asks_nothing_twice(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for _ in range(2):
        done = _run(str(_pairs(tmp_path / "pairs.jsonl")), "--baseline", "length", "--output", str(out))
        assert done.returncode == 0, done.stderr
    assert len((out / "answers.jsonl").read_text(encoding="utf-8").splitlines()) == 40
    assert len((out / "throughput.jsonl").read_text(encoding="utf-8").splitlines()) == 1
    assert "data:image/png;base64," in (out / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "url", "complaint"),
    [
        ('{"prompt": "q", "response_a": "x", "response_b": "y", "label": null}\n', "http://127.0.0.1:9", "field label"),
        ("", "http://127.0.0.1:9", "is empty"),
        ('{"prompt": "q", "response_a": "x", "label": "a"}\n', "http://127.0.0.1:9", "row 1, field response_b"),
        ('{"prompt": "q", "response_a": "x", "response_b": "y", "label": "a"}\n', "http://127.0.0.1:9", "--url"),
    ],
)
def test_what_cannot_be_judged_is_one_sentence(tmp_path: Path, rows: str, url: str, complaint: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(rows, encoding="utf-8")
    done = _run(str(path), "--url", url, "--output", str(tmp_path / "out"))
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "report.html").exists()


def test_the_bounds_of_log_odds_are_those_the_page_names() -> None:
    assert findings._odds(0.0) == -findings.MOST_ODDS
    assert findings._odds(1.0 - 1e-15) == findings.MOST_ODDS
    assert findings._odds(0.5) == 0.0

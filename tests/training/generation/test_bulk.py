"""Bulk answers on the engine without a model: complete, resumable to the same bytes, and never mixed."""

from __future__ import annotations

import asyncio
import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from service.byte_tokenizer import byte_tokenizer
from service.engines.base import EngineRequest
from service.engines.fake import FakeEngine, FakeOptions, Fault, encode_bytes
from service.engines.remote import RemoteEngine, RemoteOptions
from tests.support.vllm_server import StubServer
from training.data.pairs import DataError
from training.generation.bulk import Job, answer_all, read_answers
from training.generation.outcomes import Answer, Failure, GenerationError, Throughput
from training.generation.seeds import seed_of

TOKENIZER = byte_tokenizer()


def _jobs(count: int = 40) -> list[Job]:
    """Texts and likelihoods in turn."""
    jobs = []
    for i in range(count):
        ids = tuple(encode_bytes(f"Judge number {i}"))
        request = EngineRequest(ids, "generate", max_tokens=600, temperature=0.8, seed=seed_of(i))
        if i % 2:
            request = EngineRequest(ids, "likelihood", scored_from=6)
        jobs.append(Job(f"row-{i}", request))
    return jobs


async def _run(
    jobs: list[Job], output: Path, fault: Callable[[EngineRequest], Fault | None] | None = None
) -> Throughput:
    engine = FakeEngine(FakeOptions(fault=fault))
    await engine.start()
    return await answer_all(engine, TOKENIZER, jobs, output, title="test", at_once=5)


def _interrupted_after(count: int) -> Callable[[EngineRequest], Fault | None]:
    """An engine that dies with its n-th request."""
    asked = 0

    def fault(request: EngineRequest) -> Fault | None:
        nonlocal asked
        asked += 1
        return "die" if asked > count else None

    return fault


async def test_every_job_is_answered_in_order(tmp_path: Path) -> None:
    jobs = _jobs()
    throughput = await _run(jobs, tmp_path / "deep" / "answers.jsonl")
    answers = list(read_answers(tmp_path / "deep" / "answers.jsonl"))
    assert [key for key, _ in answers] == [job.key for job in jobs]
    texts = [answer for _, answer in answers[::2] if isinstance(answer, Answer)]
    likelihoods = [answer for _, answer in answers[1::2] if isinstance(answer, Answer)]
    assert len(texts) == len(likelihoods) == 20
    assert all(answer.text.endswith("</answer>") and answer.log_likelihood is None for answer in texts)
    assert all(answer.log_likelihood is not None and answer.log_likelihood < 0 for answer in likelihoods)
    assert [answer.tokens for answer in likelihoods] == [len(job.request.prompt_ids) - 6 for job in jobs[1::2]]
    assert (throughput.rows, throughput.failed, throughput.kept) == (40, 0, 0)
    assert throughput.tokens == sum(answer.tokens for answer in texts)
    assert throughput.tokens_s > throughput.rows_s > 0
    assert "40 rows" in str(throughput)


@pytest.mark.parametrize("answered", [0, 1, 17, 39])
async def test_an_interrupted_run_goes_on_to_the_same_bytes(tmp_path: Path, answered: int) -> None:
    whole, broken = tmp_path / "whole.jsonl", tmp_path / "broken.jsonl"
    await _run(_jobs(), whole)
    with pytest.raises(GenerationError, match="start again"):
        await _run(_jobs(), broken, _interrupted_after(answered))
    assert len(broken.read_bytes().splitlines()) - 1 <= answered
    throughput = await _run(_jobs(), broken)
    assert throughput.rows + throughput.kept == 40
    assert throughput.kept <= answered
    assert broken.read_bytes() == whole.read_bytes()
    again = await _run(_jobs(), broken)
    assert (again.rows, again.kept) == (0, 40)
    assert broken.read_bytes() == whole.read_bytes()


async def test_a_line_that_was_cut_is_done_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Wherever a kill cuts the file, even in the first line."""
    whole, broken = tmp_path / "whole.jsonl", tmp_path / "broken.jsonl"
    await _run(_jobs(6), whole)
    data = whole.read_bytes()
    for length in range(0, len(data), 97):
        broken.write_bytes(data[:length])
        await _run(_jobs(6), broken)
        assert broken.read_bytes() == data
    assert "cut off" in capsys.readouterr().out


async def test_cancelling_keeps_what_was_answered(tmp_path: Path) -> None:
    def hang(request: EngineRequest) -> Fault | None:
        return "hang" if request.prompt_ids[-1] == ord("9") else None

    work = asyncio.create_task(_run(_jobs(20), tmp_path / "answers.jsonl", hang))
    await asyncio.sleep(0.2)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert (await _run(_jobs(20), tmp_path / "answers.jsonl")).kept == 18


async def test_a_failed_row_is_listed_and_asked_again(tmp_path: Path) -> None:
    output = tmp_path / "answers.jsonl"
    jobs = [*_jobs(4), Job("long", EngineRequest((65,) * 9000, "generate"))]
    first = jobs[0].request.prompt_ids
    throughput = await _run(jobs, output, lambda request: "abort" if request.prompt_ids == first else None)
    assert throughput.failed == 2
    answers = dict(read_answers(output))
    assert isinstance(answers["row-0"], Failure) and answers["row-0"].code == "judgment_failed"
    assert isinstance(answers["long"], Failure) and answers["long"].code == "token_limit"
    throughput = await _run(jobs, output)
    assert (throughput.rows, throughput.failed, throughput.kept) == (1, 0, 4)  # the long one will stay too long
    assert isinstance(dict(read_answers(output))["row-0"], Answer)
    assert [key for key, _ in read_answers(output)] == [job.key for job in jobs]


async def test_a_likelihood_that_is_no_number_is_a_failure(tmp_path: Path) -> None:
    output = tmp_path / "answers.jsonl"
    bad = _jobs(4)[1].request
    await _run(_jobs(4), output, lambda request: "nan" if request == bad else None)
    answer = dict(read_answers(output))["row-1"]
    assert isinstance(answer, Failure) and answer.code == "non_finite_score"
    assert "NaN" not in output.read_text()


async def test_a_run_without_any_answer_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(GenerationError, match="none of 4 rows"):
        await _run(_jobs(4), tmp_path / "answers.jsonl", lambda request: "abort")


async def test_what_an_engine_refuses_another_start_may_answer(tmp_path: Path) -> None:
    """Servers that take no seeds, then some that do: the refusals were no answers."""
    fake = FakeEngine()
    await fake.start()
    stub = StubServer(fake).start()
    jobs, output = _jobs(4)[::2], tmp_path / "answers.jsonl"
    for seeds in (False, True):
        engine = RemoteEngine(RemoteOptions((stub.url,), seeds=seeds))
        await engine.start()
        if not seeds:
            with pytest.raises(GenerationError, match="seed"):
                await answer_all(engine, TOKENIZER, jobs, output, title="test")
        else:
            assert (await answer_all(engine, TOKENIZER, jobs, output, title="test")).failed == 0
        await engine.close()
    stub.stop()
    texts = [answer.text for _, answer in read_answers(output) if isinstance(answer, Answer)]
    await _run(jobs, tmp_path / "here.jsonl")
    assert texts == [answer.text for _, answer in read_answers(tmp_path / "here.jsonl") if isinstance(answer, Answer)]


async def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    output = tmp_path / "answers.jsonl"
    await _run(_jobs(4), output)
    data = output.read_bytes()
    other = FakeEngine(FakeOptions(weight_version="fake-2"))
    await other.start()
    with pytest.raises(DataError, match="was made by"):
        await answer_all(other, TOKENIZER, _jobs(4), output, title="test")
    jobs = _jobs(4)
    jobs[2] = Job("row-2", EngineRequest(jobs[2].request.prompt_ids, "generate", temperature=0.8, seed=1))
    with pytest.raises(DataError, match="row-2 answers something else"):
        await _run(jobs, output)
    with pytest.raises(DataError, match="row-3 answers something else"):
        await _run(_jobs(3), output)
    assert output.read_bytes() == data
    output.write_bytes(data.replace(b'"asked"', b'"axed"'))
    with pytest.raises(DataError, match="row 2: not an answer"):
        await _run(_jobs(4), output)
    output.write_text('{"id": "a pair"}\n')
    with pytest.raises(DataError, match="something else"):
        await _run(_jobs(4), output)
    with pytest.raises(DataError, match="no file of generated answers"):
        list(read_answers(output))


async def test_more_jobs_may_follow_in_a_file(tmp_path: Path) -> None:
    output = tmp_path / "answers.jsonl"
    await _run(_jobs(4), output)
    assert (await _run(_jobs(6), output)).kept == 4


async def test_what_could_not_be_repeated_is_refused(tmp_path: Path) -> None:
    ids = (65, 66)
    for job, message in [
        (Job("x", EngineRequest(ids, "generate", temperature=0.5)), "without a seed"),
        (Job("x", EngineRequest(ids, "label", label_ids=(1, 2))), "judge_all"),
    ]:
        with pytest.raises(DataError, match=message):
            await _run([job], tmp_path / "answers.jsonl")
    with pytest.raises(DataError, match="twice"):
        await _run([*_jobs(2), *_jobs(1)], tmp_path / "answers.jsonl")
    assert os.listdir(tmp_path) == []


async def test_the_file_is_plain_lines(tmp_path: Path) -> None:
    output = tmp_path / "answers.jsonl"
    await _run(_jobs(2), output)
    head, text, likelihood = map(json.loads, output.read_text().splitlines())
    assert head == {
        "format": 1,
        "made_by": {"engine": "fake", "weights": "fake-1", "dtype": "none", "max_model_len": 8192},
    }
    assert set(text) == {"key", "asked", "text", "tokens", "finish_reason"}
    assert math.isfinite(likelihood["log_likelihood"])

"""Writing with cached attention: the same as without, row by row independent, and it learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from training.studies.fitting import Plan
from training.studies.judges import LABEL_A, Shape
from training.studies.reasoning.rationales import PAD, Cases, both_orders
from training.studies.reasoning.writers import (
    Rows,
    Writer,
    Written,
    drawn,
    learn,
    new_writer,
    noise_for,
    text_loss,
    write,
)
from training.studies.tasks import Source, draw

SHAPE = Shape(width=16, layers=1, heads=2)


@pytest.fixture
def cases() -> Cases:
    return both_orders(draw(Source(("increment", "reverse"), 3), 20, np.random.default_rng(0)))


@pytest.fixture
def writer() -> Writer:
    return new_writer(SHAPE, 0).eval()


def test_cached_writing_is_plain_decoding(writer: Writer, cases: Cases) -> None:
    written = write(writer, cases.prompt, 6)
    ids = torch.from_numpy(cases.prompt)
    for _ in range(6):
        with torch.inference_mode():
            best = writer.body(input_ids=ids).logits[:, -1].argmax(-1)
        ids = torch.cat([ids, best[:, None]], dim=1)
    plain = ids[:, cases.prompt.shape[1] :].numpy()
    said = written.text != PAD
    assert (written.text[said] == plain[said]).all()
    assert said[:, 0].all()


def test_log_probabilities_of_sampling_are_those_of_training(writer: Writer, cases: Cases) -> None:
    written = write(writer, cases.prompt, 8, noise_for(len(cases), 8, "test"))
    rows = Rows.of(cases.prompt, written.text)
    with torch.inference_mode():
        again = writer.log_p(rows.prompt, rows.text).numpy()
    np.testing.assert_allclose(written.log_p, again, atol=1e-5)


def test_a_row_is_answered_alone_as_among_others(writer: Writer, cases: Cases) -> None:
    noise = noise_for(len(cases), 8, "vote", 3)
    together = write(writer, cases.prompt, 8, noise)
    some = np.array([7, 1])
    assert (write(writer, cases.prompt[some], 8, noise[some]).text == together.text[some]).all()
    assert (noise_for(len(cases), 8, "vote", 3) == noise).all()
    assert (noise_for(len(cases), 8, "vote", 4) != noise).all()
    assert write(writer, cases.prompt[:0], 8).text.shape == (0, 8)


def test_drawing_inverts_the_distribution() -> None:
    p = torch.zeros(5, PAD + 1)
    p[:, 2], p[:, 4], p[:, PAD] = 0.2, 0.3, 0.5
    noise = np.array([0.0, 0.39, 0.41, 0.99, 1.0 - 1e-16])
    assert drawn(p.log(), noise, 1.0).tolist() == [2, 2, 4, 4, 4], "0.2 to 0.3: padding is never drawn"
    assert drawn(p.log(), noise, 0.1).tolist()[1] == 4, "cold: the likeliest of those"


def test_a_text_ends_with_its_verdict_and_says_how_sure_it_was() -> None:
    text = np.array([[3, LABEL_A, PAD], [3, 4, 5]])
    written = Written(text, np.log([[0.5, 0.25, 1.0], [0.5, 0.5, 0.5]]))
    np.testing.assert_allclose(written.confidence, [0.25, 0.0])
    assert list(written.lengths) == [2, 3]


def test_learning_lowers_the_loss_of_texts_and_repeats(cases: Cases) -> None:
    rows, plan = Rows.true(cases), Plan(steps=30, batch=16)
    losses = []
    for _ in range(2):
        writer = new_writer(SHAPE, 0)
        before = text_loss(writer, rows).item()
        losses.append(learn(writer, rows, plan, 1))
        assert text_loss(writer, rows).item() < before - 0.3
    assert losses[0] == losses[1]


def test_what_is_behind_the_verdict_is_not_learned(writer: Writer, cases: Cases) -> None:
    rows = Rows.true(cases)
    padded = Rows(rows.prompt, torch.nn.functional.pad(rows.text, (0, 3), value=PAD))
    assert text_loss(writer, padded).item() == pytest.approx(text_loss(writer, rows).item(), abs=1e-6)

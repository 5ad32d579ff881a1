"""The studies' judges: small Qwen3 transformers over one token a character, asked as GRAM is or as a scalar head is.

    generative  reverse 3141 > 1413. | 1710! ?   -> logit of A minus logit of B at the last position
    scalar      reverse 3141 > 1413.             -> a reward for each response, at its last token; their difference

These are not the prompts of `service.judging`: their instruction is ten times as long as the 15 tokens that matter
here, and a study makes hundreds of runs. What it compares - objectives, data, first weights - does not depend on it.
Every row of a batch has the same length, so there is no padding and no mask.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from transformers import Qwen3Config, Qwen3ForCausalLM

from training.studies.tasks import DIGITS, NAMES, Integers

TASK_IDS = DIGITS
_SPECIAL = TASK_IDS + len(NAMES)
ANSWER, BAR, CUE, PLAIN_ID, STYLED_ID, LABEL_A, LABEL_B = range(_SPECIAL, _SPECIAL + 7)
VOCABULARY = LABEL_B + 1


class Shape(BaseModel):
    """Of the transformer. The default has 0.16 M parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    width: int = 64
    layers: int = 3
    heads: int = 4


def prompt_ids(task: Integers, prompt: Integers) -> Tensor:
    """Token ids [B, N + 2] of task, digits and the mark that opens the answer."""
    opening = np.full((len(task), 1), ANSWER)
    return torch.from_numpy(np.concatenate([task[:, None] + TASK_IDS, prompt, opening], axis=1))


def response_ids(marked: Integers) -> Tensor:
    """Token ids [B, N + 1] of responses as `PairSet.chosen` gives them: digits, then the mark."""
    mark = np.where(marked[:, -1:] == 1, STYLED_ID, PLAIN_ID)
    return torch.from_numpy(np.concatenate([marked[:, :-1], mark], axis=1))


def new_transformer(shape: Shape, vocabulary: int) -> Qwen3ForCausalLM:
    """A study's transformer with random weights."""
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        head_dim=shape.width // shape.heads,
        intermediate_size=3 * shape.width,
        max_position_embeddings=64,
        tie_word_embeddings=False,  # stage 1 never predicts cue and labels: tied, they would become one vector
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    config._attn_implementation = "sdpa"
    return Qwen3ForCausalLM(config)


class Judge(nn.Module):
    """A transformer that can write (`language_model_rows`) and, in two ways, compare (`log_odds`)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.body = new_transformer(shape, VOCABULARY)

    def hidden(self, ids: Tensor) -> Tensor:
        """Last hidden states [B, T, D] of ``ids`` [B, T]."""
        states: Tensor = self.body.model(input_ids=ids, use_cache=False).last_hidden_state
        return states

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., V] of hidden states [..., D]."""
        logits: Tensor = self.body.lm_head(hidden)
        return logits

    def log_odds(self, prompt: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """[B], nats: how much better the first response is judged to be."""
        raise NotImplementedError


class GenerativeJudge(Judge):
    """Reads both responses and names one: the two label logits at the cue, and no other column."""

    def log_odds(self, prompt: Tensor, first: Tensor, second: Tensor) -> Tensor:
        ids = torch.cat([prompt, first, _column(prompt, BAR), second, _column(prompt, CUE)], dim=1)
        labels = self.hidden(ids)[:, -1] @ self.body.lm_head.weight[LABEL_A : LABEL_B + 1].T
        return labels[:, 0] - labels[:, 1]


class ScalarJudge(Judge):
    """Reads one response at a time: the discriminative baseline."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self.head = nn.Linear(shape.width, 1, bias=False)

    def log_odds(self, prompt: Tensor, first: Tensor, second: Tensor) -> Tensor:
        rewards, _ = self.rewards(prompt, first, second)
        return rewards[0] - rewards[1]

    def rewards(self, prompt: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """[2, B] rewards, and [2, B] log-probabilities of the responses given the prompt, from one pass."""
        rows, responses = torch.cat([prompt, prompt]), torch.cat([first, second])
        hidden = self.hidden(torch.cat([rows, responses], dim=1))
        rewards = self.head(hidden[:, -1]).view(2, -1)
        written = self.logits(hidden[:, prompt.shape[1] - 1 : -1]).log_softmax(-1)
        log_p = written.gather(2, responses[:, :, None]).sum((1, 2)).view(2, -1)
        return rewards, log_p


def new_judge(kind: Literal["generative", "scalar"], shape: Shape, seed: int) -> Judge:
    """Fresh weights from a seed."""
    torch.manual_seed(seed)
    return GenerativeJudge(shape) if kind == "generative" else ScalarJudge(shape)


def stage_one_rows(prompt: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Token ids [B, T] of stage 1 - the judge's prompt without its cue - and the positions [S] of response tokens."""
    ids = torch.cat([prompt, first, _column(prompt, BAR), second], dim=1)
    start, length = prompt.shape[1], first.shape[1]
    second_start = start + length + 1
    return ids, torch.cat([torch.arange(start, start + length), torch.arange(second_start, second_start + length)])


def _column(like: Tensor, token: int) -> Tensor:
    return torch.full((like.shape[0], 1), token)

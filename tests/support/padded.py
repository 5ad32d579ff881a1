"""Log-probabilities and values the plain way: every position of every row is computed, and padding is masked."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from training.rlhf.policies import Samples


def padded_log_probs(policy: Any, samples: Samples) -> Tensor:
    """What `training.rlhf.policies.log_probs` gives."""
    logits = policy(
        input_ids=samples.ids, attention_mask=samples.seen, position_ids=samples.places, use_cache=False
    ).logits[:, -samples.width - 1 : -1]
    chosen = samples.ids[:, -samples.width :, None]
    found: Tensor = logits.log_softmax(-1).gather(-1, chosen)[..., 0]
    return found.masked_fill(~samples.mask, 0.0)


def padded_values(model: Any, samples: Samples) -> Tensor:
    """What `training.rlhf.ppo.ValueModel` gives."""
    hidden = model.body(
        input_ids=samples.ids, attention_mask=samples.seen, position_ids=samples.places, use_cache=False
    ).last_hidden_state
    found: Tensor = model.head(hidden[:, -samples.width - 1 : -1])[..., 0]
    return found.masked_fill(~samples.mask, 0.0)

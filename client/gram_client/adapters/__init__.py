"""One file a trainer: the shape of reward function that it wants, around this client.

trl.py           reward functions for GRPO, RLOO, OnlineDPO (trl_judge.py: pairwise judges of TRL up to 1.0)
verl.py          compute_score and compute_score_batch (verl_manager.py: a reward manager that knows groups)
openrlhf_reward.py  a file for --reward.remote_url, where the URL alone is not enough
slime.py         functions for --custom-rm-path, single and --group-rm
swift.py         an external plugin of ms-swift
areal.py         reward functions of AReaL

Shared: judging.py (where and how to ask), batches.py (a batch as one call), texts.py. None of them invents a
reward: what could not be judged is whatever that trainer knows as "none"; where it knows no such thing, a neutral
number that is flagged in its own logs.
"""

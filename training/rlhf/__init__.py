"""Policies trained by reinforcement learning against a running reward service (`python -m training rlhf`)."""

"""Stages: one readable script each, from recipe to checkpoint."""

"""Objectives: pure functions from tensors to losses."""

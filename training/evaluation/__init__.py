"""Evaluation: one benchmark per file."""

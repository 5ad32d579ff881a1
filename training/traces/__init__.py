"""Traces of a stronger model: asked for, verified, kept with the pairs they judge."""

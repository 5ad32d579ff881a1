"""Trains judges: data, objectives, stages, evaluation. The service never imports it."""

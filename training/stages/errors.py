"""What ends a training run that was set up soundly. Imports nothing, so that the command line can name it."""

from __future__ import annotations


class TrainingDiverged(Exception):
    """The loss or its gradient is no number any more. Nothing was learned from it; saved states are from before."""

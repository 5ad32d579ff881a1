"""The card's picture: how long prompts and responses are, and what became of each source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from training.data.card import Card

_COLOURS = {"prompt": "#7f7f7f", "better": "#1f77b4", "worse": "#d62728"}


def draw(card: Card, path: Path) -> None:
    """A PNG, 1000 x about 400 pixels."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, max(3.6, 0.32 * len(card.sources) + 1.2)), dpi=100)
    _lengths(left, card)
    _sources(right, card)
    figure.tight_layout()
    figure.savefig(path, metadata={"Software": None})  # no version: the same card gives the same bytes
    pyplot.close(figure)


def _lengths(axes: Any, card: Card) -> None:
    lengths = card.sides["train"].lengths
    longest = max((max(values, default=1) for values in lengths.values()), default=1)
    bins = np.geomspace(1, max(longest, 2), 60)
    for name, values in lengths.items():
        clipped = np.maximum(values, 1)
        axes.hist(clipped, bins=bins, histtype="step", linewidth=1.6, color=_COLOURS[name], label=name)
        axes.axvline(float(np.median(clipped)), color=_COLOURS[name], linewidth=0.8, linestyle=":")
    axes.set_xscale("log")
    axes.set_xlabel("characters (dotted: median)")
    axes.set_ylabel("train pairs")
    accuracy = card.sides["train"].length_accuracy
    axes.set_title("Lengths" if accuracy is None else f"Lengths; the longer one is better in {100 * accuracy[0]:.1f} %")
    axes.legend(frameon=False)


def _sources(axes: Any, card: Card) -> None:
    sources = card.sources[::-1]
    places = range(len(sources))
    left = np.zeros(len(sources))
    parts = {
        "train": [source.kept["train"] for source in sources],
        "held out": [source.kept["validation"] + source.kept["test"] for source in sources],
        "dropped": [sum(source.dropped.values()) for source in sources],
    }
    for (name, counts), colour in zip(parts.items(), ("#1f77b4", "#2ca02c", "#c7c7c7"), strict=True):
        axes.barh(places, counts, left=left, label=name, color=colour)
        left += np.array(counts)
    axes.set_yticks(list(places), [source.title for source in sources])
    axes.set_xlabel("pairs")
    axes.locator_params(axis="x", nbins=5)
    axes.set_title("What became of each source")
    axes.legend(frameon=False)

"""GRAM's second stage (arXiv 2506.14175, section 3.3): which of two responses is better, read off two logits.

One forward of the backbone, then two rows of the output matrix at one position. Both display orders of a pair are
trained, held-out pairs are judged in both orders meanwhile, and what is written is what the service loads.

With ``data.judgments`` the same model also learns to write a judgment before the label (GRAM-R2, arXiv 2509.02492).
`adapt` is this stage on few pairs, from a checkpoint that is a judge already.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from service.judging import gram, gram_r2
from service.judging.base import sigmoid
from service.manifest import SelfTest
from service.tokenization import ChatTokenizer
from training.configs import AdaptRecipe, FinetuneRecipe
from training.data.pairs import Pair
from training.data.rows import LabelRows
from training.stages.datasets import Interleaved, PairDataset, evaluation_pairs, training_pairs
from training.stages.examples import Example
from training.stages.export import Judged, entry, gathered_state, pick_self_test, save_model, write_checkpoint
from training.stages.judging import JudgeTrainer, ReadTerm, Terms
from training.stages.judgments import JudgmentDataset, longest_judgment, read_judgments
from training.stages.labels import LabelExamples
from training.stages.models import load_causal, load_tokenizer, require_family, require_judge, with_adapters
from training.stages.reading import make_readable
from training.stages.run import arguments, train, write_figures
"""
"""

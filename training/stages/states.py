"""Saved states that are whole, a history beside them, and a gradient that is a number: for every trainer here.

A state is written beside its place and renamed into it: a full disk leaves the last good one.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

from torch import nn
from transformers.trainer_utils import rotate_checkpoints

from training.stages.errors import TrainingDiverged
from training.stages.saving import failure, flush, part_of, put_in_place

HISTORY = "history.jsonl"
_STATE = "trainer_state.json"


class WholeStates:
    """Goes before the library's trainer among the bases of a class."""

    args: Any
    state: Any
    accelerator: Any
    _writing: Path | None = None

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        """The gradient's length before it is cut, which is no number when the loss is none: all processes see the same.

        Raises `TrainingDiverged` before the weights change; DeepSpeed, whose engine steps by itself, has changed those
        in memory by then. Neither is saved.
        """
        norm = super()._clip_grad_norm(model)  # type: ignore[misc]
        if not math.isfinite(float(norm)):
            raise TrainingDiverged(
                f"The gradient of step {self.state.global_step + 1} is {float(norm)}; nothing of it was saved. "
                "Look at that step's rows, lower optimizer.learning_rate, then go on with --resume."
            )
        return norm

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._writing or super()._get_output_dir(trial))  # type: ignore[misc]

    def state_at(self, step: int) -> Path:
        """Where the state of a step is saved."""
        return Path(self.args.output_dir) / f"checkpoint-{step}"

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """The library's checkpoint, written aside and renamed by the main process. Raises `SaveError`."""
        target = self.state_at(self.state.global_step)
        self._writing = part_of(target)
        if self.args.should_save:
            shutil.rmtree(self._writing, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        try:
            super()._save_checkpoint(model, trial)  # type: ignore[misc]
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                self._put_in_place(self._writing / target.name, target)
        except Exception as error:
            raise failure(target, error) from error
        finally:
            if self.args.should_save:
                shutil.rmtree(self._writing, ignore_errors=True)
            self._writing = None
        self.accelerator.wait_for_everyone()

    def _put_in_place(self, written: Path, target: Path) -> None:
        (written / "training_args.bin").unlink(missing_ok=True)  # a pickle nobody reads
        best = self.state.best_global_step
        if best:
            self.state.best_model_checkpoint = str(self.state_at(best))  # not the place it was written to
            self.state.save_to_json(str(written / _STATE))
        flush(written.parent)
        put_in_place(written, target)
        kept = str(self.state_at(best)) if best and self.state_at(best).is_dir() else None
        rotate_checkpoints(str(target.parent), self.args.save_total_limit, best_model_checkpoint=kept, use_mtime=False)
        self.write_history()

    def write_history(self) -> None:
        """Everything that was logged, one line a step: what `curves` draws."""
        path = Path(self.args.output_dir) / HISTORY
        part = path.with_suffix(".part")
        part.write_text("".join(json.dumps(row) + "\n" for row in self.state.log_history), encoding="utf-8")
        part.replace(path)

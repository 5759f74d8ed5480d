"""How a training gets on, for the program that has started it."""

import json
import math
import os
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from klann_lightning.errors import KlannError
from klann_lightning.handshake import PARENT, PROGRESS
from klann_lightning.training.stages import StageSwitch


class DivergedError(KlannError):
    """A training whose loss is no number any more."""


class AbandonedError(KlannError):
    """A training whose starter is gone."""


class ProgressLog(pl.Callback):
    """A line in the run's progress.jsonl at every validation; ends a training that is no use any more.

    Line: {"epoch": ended epochs, "stage": from 1, "since": epochs ended before the stage, and the
    validation's "val/loss", "val/esr_db", "val/mr_stft"}. No use: a loss that is not finite, or that
    the process in KLANN_PARENT is not the parent any more.
    """

    def __init__(self) -> None:
        self._parent = int(os.environ.get(PARENT, 0))

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if self._parent and trainer.is_global_zero and os.getppid() != self._parent:
            raise AbandonedError(f"process {self._parent}, which has started this training, is gone")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        scores = {
            name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")
        }
        epoch = trainer.current_epoch + 1
        if not math.isfinite(scores["val/loss"]):
            raise DivergedError(f"diverged: val/loss is {scores['val/loss']} after epoch {epoch}")
        if trainer.is_global_zero:
            switch = next(part for part in trainer.callbacks if isinstance(part, StageSwitch))  # type: ignore[attr-defined]
            line = {"epoch": epoch, "stage": switch.index + 1, "since": switch.first_epoch, **scores}
            with (Path(trainer.default_root_dir) / PROGRESS).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

"""How a training gets on, for the program that has started it."""

import json
import math
import os
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from klann_lightning.errors import KlannError
from klann_lightning.handshake import PARENT, PROGRESS
from klann_lightning.training.kept import trains
from klann_lightning.training.stages import StageSwitch


class AbandonedError(KlannError):
    """A training whose starter is gone."""


class ProgressLog(pl.Callback):
    """A line in the run's progress.jsonl at every validation; ends a training that has no purpose any more.

    Line: {"epoch": ended epochs, "stage": from 1, "since": epochs ended before the stage, and the
    validation's "val/loss", "val/esr_db", "val/mr_stft"}, where its loss is a number. No purpose: the
    process in KLANN_PARENT is not the parent any more.
    """

    def __init__(self) -> None:
        self._parent = int(os.environ.get(PARENT, 0))

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if self._parent and trainer.is_global_zero and os.getppid() != self._parent:
            raise AbandonedError(f"process {self._parent}, which has started this training, is gone")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trains(trainer):
            return
        scores = {
            name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")
        }
        epoch = trainer.current_epoch + 1
        if trainer.is_global_zero and math.isfinite(scores["val/loss"]):
            switch = next(part for part in trainer.callbacks if isinstance(part, StageSwitch))  # type: ignore[attr-defined]
            line = {"epoch": epoch, "stage": switch.index + 1, "since": switch.first_epoch, **scores}
            with (Path(trainer.default_root_dir) / PROGRESS).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

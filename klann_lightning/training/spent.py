"""What a training has cost so far."""

import json
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Timer

from klann_lightning.handshake import SPENT


class Spent(pl.Callback):
    """Writes spent.json at a training's end: its seconds, validations among them, and the samples it was fed.

    A batch that an optimizer evaluates several times, as L-BFGS does, counts as often. Checkpoints keep
    the sums, so a resumed training's are those of all its parts. Ranks count together.
    """

    def __init__(self) -> None:
        self.seconds = 0.0  # of the parts before this one
        self.samples = 0
        self._begun: float | None = None
        self._batch = 0

    def state_dict(self) -> dict[str, Any]:
        part = 0.0 if self._begun is None else time.monotonic() - self._begun
        return {"seconds": self.seconds + part, "samples": self.samples}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds, self.samples = state_dict["seconds"], state_dict["samples"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begun = time.monotonic()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._batch = batch["rows"] * batch["input"].shape[-1]

    def on_before_backward(self, *_: Any) -> None:
        """Once an evaluation of the batch."""
        self.samples += self._batch

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seconds, self._begun = self.state_dict()["seconds"], None

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Also of a training that was gone on with after its time was over."""
        if trainer.is_global_zero:
            place = {"accelerator": trainer.strategy.root_device.type, "threads": torch.get_num_threads()}
            timers = [part for part in trainer.callbacks if isinstance(part, Timer)]  # type: ignore[attr-defined]
            ran_out = any((timer.time_remaining() or 1.0) <= 0 for timer in timers)
            spent = {**self.state_dict(), "steps": trainer.global_step, "ran_out": ran_out, **place}
            (Path(trainer.default_root_dir) / SPENT).write_text(json.dumps(spent), encoding="utf-8")

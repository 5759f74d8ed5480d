"""A line on the terminal that says how far a training is: stage, epoch, error, time left."""

import logging
import sys
import time
from typing import Any

import lightning.pytorch as pl
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from klann_lightning.training.stages import StageSwitch

RECENT = 20  # validations over which an epoch's time is taken


class StageBar(pl.callbacks.ProgressBar):
    """`stage 2/3 polish  120/800 epochs  ESR -23.1 dB, best -23.4  1:20 left in it`, and a bar.

    The time left is that of the stage's configured epochs at the pace of the last validations; a stage
    that ends on a plateau ends earlier.
    """

    def __init__(self, switch: StageSwitch, console: Console | None = None) -> None:
        super().__init__()
        self.switch = switch
        self.enabled = True
        self.last = self.best = float("inf")  # ESR of the stage, in dB
        self.paces: list[tuple[float, int]] = []  # when so many epochs had ended, of this stage
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[said]}", markup=False),
            console=console or Console(stderr=True),
            transient=True,
        )
        self.task = self.progress.add_task("", total=None, said="")

    def enable(self) -> None:
        self.enabled = True

    def disable(self) -> None:
        """Lightning does that on all ranks but the first."""
        self.enabled = False

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        switch = self.switch
        spent, epochs = trainer.current_epoch - switch.first_epoch, switch.epochs[switch.index]
        name = f"stage {switch.index + 1}/{len(pl_module.stages)} {pl_module.stage.name}"
        if self.progress.tasks[0].description != name:
            self.best, self.paces = float("inf"), [(time.monotonic(), spent)]
        of = "" if epochs is None else f"/{epochs}"
        said = f"{spent}{of} epochs{self._error()}{self._left(spent, epochs)}"
        self.progress.update(self.task, description=name, completed=spent, total=epochs, said=said)
        if self.enabled and not self.progress.live.is_started:
            self.progress.start()
            self._redirect()  # what is told meanwhile stands above the bar

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.sanity_checking or not self.paces:
            return
        self.last = float(trainer.callback_metrics["val/esr_db"])
        self.best = min(self.best, self.last)
        ended = trainer.current_epoch + 1 - self.switch.first_epoch
        self.paces = [*self.paces[-RECENT:], (time.monotonic(), ended)]

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.progress.stop()
        self._redirect()

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        self.on_train_end(trainer, pl_module)

    def _redirect(self) -> None:
        """Lightning's notices go where standard error goes now."""
        for handler in logging.getLogger("lightning.pytorch").handlers:
            if isinstance(handler, logging.StreamHandler):
                handler.setStream(sys.stderr)

    def _error(self) -> str:
        return f"  ESR {self.last:.1f} dB, best {self.best:.1f}" if self.best < float("inf") else ""

    def _left(self, spent: int, epochs: int | None) -> str:
        (began, before), now = self.paces[0], time.monotonic()
        if epochs is None or spent <= before:
            return ""
        seconds = round((now - began) / (spent - before) * (epochs - spent))
        return f"  {seconds // 60}:{seconds % 60:02d} left in it"

"""Sees when a training goes wrong: numbers that are none, a model that is silent or upside down."""

import math
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_info

from klann_lightning.errors import DivergedError
from klann_lightning.metrics import decibels
from klann_lightning.training.kept import KeptCallback, trains
from klann_lightning.training.module import EffectModule
from klann_lightning.training.stages import StageSwitch, Weights, weights_of

RETRIES = 5  # in a course, each at half the rate of the one before
LOOK_EVERY = 50  # steps on a GPU, where every look waits for it
SILENT_DB = -30.0  # the output's power over the target's
UPSIDE_DOWN = -0.5  # correlation of output and target
STEADY = 5  # validations in a row, after which a state counts as one


class Watch(KeptCallback):
    """Goes back where the loss is no number, and names two traps that a loss alone does not tell apart.

    A loss, weights or a validation that are NaN or infinite: back to the weights of the last validation
    without any (or of the course's begin), with half the learning rate, a new optimizer, and readers that
    start anew. After RETRIES such times in one course, DivergedError. The losses, and so the decisions, are
    equal on all ranks.

    It stands behind StageSwitch in the list of callbacks, which sets the rate that is halved here.
    """

    KEPT = ("times", "good", "good_epoch", "course", "states")

    def __init__(self, switch: StageSwitch) -> None:
        self.switch = switch
        self.times = 0  # in this course
        self.good: Weights | None = None
        self.good_epoch = 0
        self.course: tuple[int, int] = (-1, -1)  # stage, and step that it began with
        self.states: dict[str, int] = {}  # validations in a row that found the model in a trap

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
        course = self.switch.index, self.switch.first_step
        if course != self.course:
            self.course, self.times, self.states = course, 0, {}
            self._keep(trainer, module)
        for group in trainer.optimizers[0].param_groups:
            group["lr"] *= 0.5**self.times

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.strategy.root_device.type == "cpu" or trainer.global_step % LOOK_EVERY == 0:
            loss = float(outputs["loss"])
            if not math.isfinite(loss):
                self._go_back(trainer, module, f"train/loss is {loss}")

    def on_validation_end(self, trainer: pl.Trainer, module: Any) -> None:
        if not trains(trainer):
            return
        loss = float(trainer.callback_metrics["val/loss"])
        if math.isfinite(loss):
            self._keep(trainer, module)
            self._name_traps(module)
        else:
            self._go_back(trainer, module, f"val/loss is {loss}")

    def on_train_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
        """A step may have gone wrong whose loss was still a number."""
        if not all(bool(weight.isfinite().all()) for weight in module.parameters()):
            self._go_back(trainer, module, "a weight is no number")

    def _keep(self, trainer: pl.Trainer, module: EffectModule) -> None:
        self.good, self.good_epoch = weights_of(module), trainer.current_epoch

    def _go_back(self, trainer: pl.Trainer, module: EffectModule, what: str) -> None:
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        found = f"{what} in epoch {trainer.current_epoch}, step {trainer.global_step}"
        self.times += 1
        if self.times > RETRIES or self.good is None:
            raise DivergedError(
                f"diverged: {found}, for the {self.times}th time in stage {module.stage.name!r}, last at a "
                f"learning rate of {rate:.2g}. Lower the stage's lr, or set trainer.gradient_clip_val."
            )
        module.load_state_dict(self.good)
        module.forget()
        trainer.optimizers = [module.configure_optimizers()]
        rank_zero_info(
            f"{found}: back to the weights of epoch {self.good_epoch}, with half the learning rate, "
            f"{rate / 2:.2g} ({self.times} of {RETRIES} times)"
        )

    def _name_traps(self, module: EffectModule) -> None:
        """Say once what a model has been for some validations."""
        level_db = float(decibels(torch.tensor(module.val_scores["level"])))
        correlation = module.val_scores["correlation"]
        self._count(
            "silent",
            level_db < SILENT_DB,
            f"its output is {-level_db:.0f} dB below the target. Try another --seed_everything, several "
            "starts, or a lower lr",
        )
        self._count(
            "upside down",
            correlation < UPSIDE_DOWN,
            f"its output runs against the target (correlation {correlation:.2f}), which the loss does "
            "not hear. Give it esr or mse beside mr_stft",
        )

    def _count(self, trap: str, holds: bool, said: str) -> None:
        self.states[trap] = self.states.get(trap, 0) + 1 if holds else 0
        if self.states[trap] == STEADY:
            rank_zero_info(f"The model is {trap}, for {STEADY} validations now: {said}.")

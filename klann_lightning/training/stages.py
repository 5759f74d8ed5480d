"""Leads a training through its stages, and keeps the best of each."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from klann_lightning.errors import ConfigError
from klann_lightning.training.keeper import Keeper
from klann_lightning.training.kept import KeptCallback, trains
from klann_lightning.training.module import EffectModule
from klann_lightning.training.recipe import (
    PLATEAU,
    LossStage,
    learning_rate,
    stage_epochs,
    starts_of,
    weighed_in_units,
)

Weights = dict[str, Tensor]


class StageListener(pl.Callback):
    """A callback that also hears when a stage has ended."""

    def on_stage_end(self, trainer: pl.Trainer, module: EffectModule, name: str) -> None:
        """The module holds the best weights of the stage, `name` is like `stage-1-time`."""


class StageSwitch(KeptCallback):
    """Ends a stage after its epochs or on a plateau, goes back to its best weights, starts the next.

    Where a stage has several `starts`, each trains a little from random weights of its own; the weights
    with the best `val/loss` of them all then train on for the rest of the stage.

    A stage's best is the lowest `val/loss`, that is its own loss over whole files. What it starts from counts
    by that loss too where it is the best of the stage before, so no stage ends worse than it began. Has
    `stage-<n>-<name>.ckpt` written when a stage's best improves, at the latest when the stage ends. Every
    checkpoint holds the stage and its best, so a resumed run goes on in the right stage. Everything that it
    decides on is equal on all ranks.
    """

    KEPT = (
        "index",
        "first_epoch",
        "first_step",
        "best_score",
        "best_epoch",
        "best_weights",
        "stale",
        "plateaus",
        "finished",
        "best_scores",
        "weights",
    )

    def __init__(self, keeper: Keeper) -> None:
        """`keeper` writes the checkpoints."""
        self.keeper = keeper
        self.unwritten: set[str] = set()  # stages whose best has improved since their checkpoint
        self.epochs: list[int | None] = []  # of each stage, in this run
        self.check_every: int | None = 1  # epochs from validation to validation, as configured
        self.reload_every = 0  # epochs from one asking for batches to the next, as configured
        self.index = 0
        self.first_epoch = 0
        self.first_step = 0
        self.best_score = math.inf
        self.best_epoch = -1
        self.best_weights: Weights | None = None
        self.stale = 0  # validations since the best
        self.plateaus = 0  # of the learning rate's course, so far
        self.finished: dict[str, Weights] = {}  # best weights of every stage that has ended
        self.best_scores: dict[str, float] = {}  # every term's at the stage's best
        self.weights: dict[str, float] | None = None  # of the stage's terms, where they are not as configured

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """Before the first batches of a training are asked for."""
        if stage == "fit":
            self._feed(trainer, pl_module)

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """The optimizer that is about to be restored is the stage's own, and so are the batches."""
        pl_module.stage = pl_module.stages[checkpoint["callbacks"][self.state_key]["index"]]
        self._feed(trainer, pl_module)

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.epochs = stage_epochs(pl_module.stages, trainer.max_epochs or -1)
        self.check_every = trainer.check_val_every_n_epoch
        self.reload_every = trainer.reload_dataloaders_every_n_epochs  # type: ignore[attr-defined]
        relative = next((stage.name for stage in pl_module.stages if stage.relative), None)
        if relative and not trainer.enable_validation:
            raise ConfigError(f"stage {relative!r} is relative to scores on val: it needs validations")
        pl_module.stage = _weighed(pl_module.stages[self.index], self.weights)
        folder = Path(trainer.default_root_dir)
        there = {name for name in self.finished if (folder / f"{name}.ckpt").is_file()}
        unwritten = {*self.finished, self.name(pl_module)} - there
        self.unwritten = trainer.strategy.broadcast(unwritten)  # not every machine sees the folder
        self._hear_the_end(trainer, pl_module)  # a training that goes on within an epoch does not start it
        if not trainer.fit_loop.restarted_mid_epoch:
            over = self._over(pl_module.stage, trainer.current_epoch - self.first_epoch)
            trainer.should_stop |= self._last() and over  # its scores alone were missing

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._hear_the_end(trainer, pl_module)

    def _hear_the_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Where a start or a stage ends, its learning rate has fallen: that must not pass unheard."""
        trainer.reload_dataloaders_every_n_epochs = self.reload_every  # type: ignore[attr-defined]
        spent = trainer.current_epoch - self.first_epoch
        _, end = self._course(pl_module.stage, spent)
        trainer.check_val_every_n_epoch = 1 if spent + 1 == end else self.check_every

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        begin, end = self._course(pl_module.stage, trainer.current_epoch - self.first_epoch)
        steps = ((end or 1) - begin) * int(trainer.num_training_batches)
        spent = trainer.global_step - self.first_step
        rate = learning_rate(pl_module.stage, spent, steps, self.plateaus)
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = rate

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if not trains(trainer):
            return
        score = float(trainer.callback_metrics["val/loss"])
        if score < self.best_score:
            self.best_score, self.best_epoch, self.stale = score, trainer.current_epoch, 0
            self.best_weights, self.best_scores = weights_of(pl_module), dict(pl_module.val_scores)
            self.unwritten.add(self.name(pl_module))
            self._write(trainer, self.name(pl_module))
        else:
            self.stale += 1
            self.plateaus += self.stale % PLATEAU == 0

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        pl_module.log_epoch({"lr": rate, "stage": float(self.index + 1)})
        spent = trainer.current_epoch + 1 - self.first_epoch
        begin, end = self._course(pl_module.stage, spent)
        if self._over(pl_module.stage, spent):
            self._end_stage(trainer, pl_module)
        elif begin == spent:
            self._start_anew(trainer, pl_module, last=end == self.epochs[self.index])

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """A training that was told to stop within a stage keeps that stage's best."""
        if self.name(pl_module) not in self.finished:
            self._conclude(trainer, pl_module)
        for name in sorted(self.unwritten & self.finished.keys()):  # there was no space for them
            pl_module.load_state_dict(self.finished[name])
            self._write(trainer, name, must=True)
        pl_module.load_state_dict(self.finished[self.name(pl_module)])

    on_fit_end = on_train_end  # where it was gone on with after its time was over, no training has ended

    def name(self, module: EffectModule) -> str:
        """The current stage's name, as its checkpoint bears it."""
        return f"stage-{self.index + 1}-{module.stage.name}"

    def _course(self, stage: LossStage, spent: int) -> tuple[int, int | None]:
        """Which of the stage's epochs belong together where it stands: those of a start, or those after."""
        epochs = self.epochs[self.index]
        starts, each = starts_of(stage, epochs)
        if spent >= starts * each:
            return starts * each, epochs
        return spent - spent % each, spent - spent % each + each

    def _over(self, stage: LossStage, spent: int) -> bool:
        """Whether the stage ends after so many of its epochs."""
        epochs, (_, end) = self.epochs[self.index], self._course(stage, spent)
        impatient = stage.patience is not None and self.stale >= stage.patience and end == epochs
        return (epochs is not None and spent >= epochs) or impatient

    def _last(self) -> bool:
        """Whether no other stage follows."""
        return self.epochs[self.index + 1 : self.index + 2] in ([], [0])

    def _start_anew(self, trainer: pl.Trainer, module: EffectModule, last: bool) -> None:
        """From other random weights, the same on all ranks; at last from the best of all starts."""
        if not last:
            seed = trainer.strategy.broadcast(torch.initial_seed()) + trainer.current_epoch + 1
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                module.model.restart()
        elif self.best_weights is not None:
            module.load_state_dict(self.best_weights)
            rank_zero_info(f"the best of the random starts (val/loss {self.best_score:.5g}) trains on")
        module.forget()
        self._begin_course(trainer, module)

    def _begin_course(self, trainer: pl.Trainer, module: EffectModule) -> None:
        """With a new optimizer, and the learning rate's schedule from its start."""
        trainer.optimizers = [module.configure_optimizers()]
        self.first_step, self.stale, self.plateaus = trainer.global_step, 0, 0

    def _conclude(self, trainer: pl.Trainer, module: EffectModule) -> None:
        """Go back to the stage's best weights, keep them, and let the listeners see them."""
        name = self.name(module)
        if self.best_weights is None:  # no validation fell into the stage
            self.best_weights, self.best_epoch = weights_of(module), trainer.current_epoch
        self.finished[name] = self.best_weights
        module.load_state_dict(self.best_weights)
        self._write(trainer, name, must=True)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, StageListener):
                callback.on_stage_end(trainer, module, name)

    def _end_stage(self, trainer: pl.Trainer, module: EffectModule) -> None:
        last = weights_of(module)
        self._conclude(trainer, module)
        best = f"best at epoch {self.best_epoch} (val/loss {self.best_score:.5g})"
        if self.best_score == math.inf:
            best = "no validation fell into it"
        ended = f"{self.name(module)} ended after epoch {trainer.current_epoch}, {best}"
        if self._last():
            rank_zero_info(ended)
            trainer.should_stop = True
            return
        before = module.stage
        self.index += 1
        stage = module.stages[self.index]
        known = stage.relative and all(0 < self.best_scores.get(name, 0) < math.inf for name in stage.weights)
        self.weights = weighed_in_units(stage.weights, self.best_scores) if known else None
        module.stage = _weighed(stage, self.weights)
        if stage.feed is not before.feed:
            self._feed(trainer, module)
            trainer.reload_dataloaders_every_n_epochs = 1  # type: ignore[attr-defined]
            module.forget()
        if stage.start_from == "last":
            module.load_state_dict(last)
        self._begin_course(trainer, module)
        self.first_epoch = trainer.current_epoch + 1
        self.unwritten.add(self.name(module))
        self.best_score = self._score_of(module.stage) if stage.start_from == "best" else math.inf
        if self.best_score == math.inf:  # else nothing of it yet is better than what it starts from
            self.best_epoch, self.best_weights, self.best_scores = -1, None, {}
        loss = " + ".join(f"{weight:.3g} {name}" for name, weight in module.stage.weights.items())
        rank_zero_info(
            f"{ended}; {self.name(module)} starts from its {stage.start_from} weights, "
            f"learning rate {stage.lr:g}, loss {loss}"
        )

    def _write(self, trainer: pl.Trainer, name: str, must: bool = False) -> None:
        """A stage's checkpoint, if its best has improved since."""
        if name in self.unwritten and self.keeper.write(trainer, name, must):
            self.unwritten.discard(name)

    def _score_of(self, stage: LossStage) -> float:
        """A stage's `val/loss` at the best of the one before; infinite where no validation told."""
        if not stage.weights.keys() <= self.best_scores.keys():
            return math.inf
        score = float(stage.loss_of(self.best_scores))
        return score if math.isfinite(score) else math.inf

    def _feed(self, trainer: pl.Trainer, module: EffectModule) -> None:
        """What is asked for batches from now on."""
        trainer.datamodule.stage_feed = module.stage.feed  # type: ignore[attr-defined]


def _weighed(stage: LossStage, weights: dict[str, float] | None) -> LossStage:
    return replace(stage, weights=weights) if weights else stage


def weights_of(module: EffectModule) -> Weights:
    """A copy on the CPU, with the levels."""
    return {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}

"""One training of one model: steps, log names, optimizer."""

import warnings
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from klann_lightning.errors import ConfigError
from klann_lightning.losses import AddedUp, StftResolutions, batch_terms, magnitude_stfts
from klann_lightning.metrics import FileScores
from klann_lightning.models.base import AudioModel, State
from klann_lightning.training.chance import generators, set_generators
from klann_lightning.training.checkpoints import ORIGIN, WRITTEN_BY, fitting_model
from klann_lightning.training.recipe import LossStage, OptimizerFactory


class EffectModule(pl.LightningModule):
    """Trains an AudioModel on batches of PairedDataModule, in stages that StageSwitch leads through.

    Logs train/loss and train/<term> each epoch, val/loss (the stage's own loss over whole files),
    val/esr_db, val/mr_stft, and the same for test.
    """

    target_power: Tensor

    def __init__(
        self,
        model: AudioModel,
        stages: list[LossStage],
        optimizer: OptimizerFactory = torch.optim.Adam,
        train_path: Literal["scan", "sampled"] = "scan",
        normalise: bool = True,
        mr_stft: StftResolutions = StftResolutions(),  # noqa: B008, it is frozen
        init_from: Path | None = None,
    ) -> None:
        """What is trained and how.

        Args:
            model: the model of the device.
            stages: at least one; their learning rates replace the optimizer's own.
            optimizer: made anew for every stage that names none of its own.
            train_path: `scan` is exact; `sampled` is the paper's approximation, from zero state.
            normalise: work at the training recordings' RMS as unit level.
            mr_stft: resolutions of the mr_stft term and score.
            init_from: checkpoint whose weights and levels a fit starts from, instead of random weights and
                the recordings' levels; nothing else reads it.
        """
        super().__init__()
        with warnings.catch_warnings():
            # advice on hyper-parameters that pickle; the command line's are plain
            warnings.filterwarnings("ignore", message=".*is already saved during checkpointing")
            self.save_hyperparameters()
        if not stages:
            raise ConfigError("model.stages is empty: a training needs at least one stage")
        if stages[0].relative:
            raise ConfigError(f"stage {stages[0].name!r} is the first: nothing is there to be relative to")
        self.model = model
        self.stages = stages
        self.stage = stages[0]
        self.val_scores: dict[str, float] = {}  # of the last validation, every term of losses.py
        self.make_optimizer = optimizer
        self.train_path = train_path
        self.normalise = normalise
        self.resolutions = mr_stft
        self.init_from = init_from
        self.stfts = magnitude_stfts(mr_stft)
        self.scores = FileScores(mr_stft)
        self.register_buffer("target_power", torch.ones(()))
        # DDP would broadcast the buffers at every step, also of a validation, where one rank may have more
        # blocks than another and would wait for ever. They are equal on all ranks as it is.
        # Nor is it to wait for gradients that never come.
        self._ddp_params_and_buffers_to_ignore = [
            *(name for name, _ in self.named_buffers()),
            *(f"model.{name}" for name in model.untrained),
        ]
        self._readers: State | None = None  # where each row of the training batch before stopped
        self._before: State | None = None  # where it stood before this batch
        self._losses: dict[str, list[Tensor]] = {}  # of the epoch's steps
        self._generators: dict[str, Any] | None = None  # of a checkpoint, until the training goes on
        self._listener: State | None = None  # where the file under evaluation stopped

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return (self.stage.optimizer or self.make_optimizer)(self.parameters())

    def on_fit_start(self) -> None:
        """Take the training recordings' levels, unless a checkpoint brings its own."""
        if self.trainer.ckpt_path:
            return
        input_level, output_level = self.trainer.datamodule.levels()  # type: ignore[attr-defined]
        self.target_power.fill_(output_level**2)
        if begun := self.begun_model():
            self.model.load_state_dict(begun.state_dict())
            rank_zero_info(f"starts from the weights and levels of {self.init_from}")
        elif self.normalise:
            self.model.set_levels(input_level, output_level)

    def begun_model(self) -> AudioModel | None:
        """The model of init_from; CheckpointError where it cannot take the place of the configured one."""
        if self.init_from is None:
            return None
        return fitting_model(self.init_from, self.model, "model.init_from")

    def check_fits(self, checkpoint: Path) -> None:
        """CheckpointError where a training of the configured model cannot go on from it."""
        fitting_model(checkpoint, self.model, "ckpt_path")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """With what every rank remembers from step to step."""
        checkpoint[ORIGIN] = WRITTEN_BY
        own = {
            # not all of what they may be views of, and of what a step was taken on, which may be a GPU
            "readers": self._readers and tuple(part.cpu().clone() for part in self._readers),
            "losses": {name: torch.stack(values).cpu() for name, values in self._losses.items()},
            "generators": generators(),
        }
        ranks: list[Any] = [own]
        if self.trainer.world_size > 1:
            ranks = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(ranks, own)
        checkpoint["ranks"] = ranks

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A training goes on where its readers stood, also on another number of ranks."""
        ranks = checkpoint.get("ranks")
        if ranks and self._trainer is not None:  # not for its model alone
            here, world = self.trainer.global_rank, self.trainer.world_size
            own = ranks[here % len(ranks)]
            self._readers = _share([rank["readers"] for rank in ranks], here, world)
            self._losses = {name: list(values.to(self.device)) for name, values in own["losses"].items()}
            self._generators = own["generators"]

    def on_train_start(self) -> None:
        if self._generators is not None:
            set_generators(self._generators)
            self._generators = None

    def on_train_batch_start(self, batch: dict[str, Any], batch_idx: int) -> None:
        frames, block = batch["input"].shape[-1], self.model.block
        if frames % block and not all(batch["fresh"]):
            raise ConfigError(
                f"the feed's readers go on by {frames} samples, but {type(self.model).__name__} works on "
                f"blocks of {block}; set data.train.length to a multiple of {block}"
            )
        if self._readers is not None and len(self._readers[0]) != len(batch["input"]):
            self._readers = None  # of a checkpoint that was trained with another number of them
        if self._readers is not None:  # a checkpoint's are on the CPU
            self._readers = tuple(part.to(self.device) for part in self._readers)
        self._before = self._readers  # an optimizer with a closure takes the same step several times

    def forget(self) -> None:
        """Every reader goes on from the model's initial state: the weights are others now."""
        self._readers = None

    def training_step(self, batch: dict[str, Any]) -> Tensor:
        target, scored = batch["target"], slice(batch["skip"], None)
        if self.train_path == "sampled":
            output = self.model.forward_sampled(batch["input"])
        else:
            output, after = self.model.advance(batch["input"], batch["fresh"], self._before)
            self._readers = tuple(part.detach() for part in after)
        terms = self._terms(output[:, scored], target[:, scored], batch["weight"])
        loss = torch.stack([weight * terms[name] for name, weight in self.stage.weights.items()]).sum()
        for name, value in {**terms, "loss": loss}.items():
            self._losses.setdefault(f"train/{name}", []).append(value.detach())
        return loss

    def on_train_epoch_start(self) -> None:
        self._losses = {}

    def on_train_epoch_end(self) -> None:
        """Log the epoch's mean losses: at once, since logging every step takes as long as a short step."""
        means = {name: torch.stack(values).mean() for name, values in self._losses.items()}
        self.log_epoch(means)

    def log_epoch(self, values: dict[str, Any]) -> None:
        """Log what is equal on every rank, at the end of an epoch and at once.

        Lightning would log it after the epoch's checkpoint: a training that goes on from there would not.
        """
        self.log_dict(values, logger=False, sync_dist=True)
        numbers = {name: float(value) for name, value in values.items()}
        for logger in self.trainer.loggers:
            logger.log_metrics(
                {**numbers, "epoch": self.trainer.current_epoch}, step=self.trainer.global_step - 1
            )

    def validation_step(self, batch: dict[str, Any]) -> None:
        self._score(batch)

    def on_validation_epoch_start(self) -> None:
        self.scores.reset()

    def on_validation_epoch_end(self) -> None:
        self._log_scores("val")

    def test_step(self, batch: dict[str, Any]) -> None:
        self._score(batch)

    def on_test_epoch_start(self) -> None:
        self.scores.reset()

    def on_test_epoch_end(self) -> None:
        self._log_scores("test")

    def predict_step(self, batch: dict[str, Any]) -> Tensor:
        """The output [1, T] of the file's next block."""
        output, self._listener = self.model.advance(batch["input"], batch["fresh"], self._listener)
        return output

    def _terms(self, output: Tensor, target: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """The stage's loss terms, unweighted, over the rows of all ranks: equal on every rank."""
        names, power = self.stage.weights, self.target_power
        return batch_terms(names, output, target, weight, power, self.stfts, self._total)

    def _total(self, sums: Tensor) -> Tensor:
        ranks = self.trainer.world_size
        return sums if ranks == 1 else AddedUp.apply(sums, _all_reduced, ranks)

    def _score(self, batch: dict[str, Any]) -> None:
        output, self._listener = self.model.advance(batch["input"], batch["fresh"], self._listener)
        scored = slice(batch["skip"], None)
        self.scores.update(output[:, scored], batch["target"][:, scored], last=batch["last"])

    def _log_scores(self, split: str) -> None:
        scores = self.scores.compute()
        if split == "val":
            self.val_scores = {name: float(value) for name, value in scores.items()}
        logged = {
            f"{split}/loss": self.stage.loss_of(scores),
            **{f"{split}/{name}": scores[name] for name in ("esr_db", "mr_stft")},
        }
        self.log_dict(logged, sync_dist=True)  # equal on every rank


def _share(readers: list[State | None], rank: int, world: int) -> State | None:
    """Of the states that all ranks' readers had, those of the readers that one of `world` ranks has now."""
    states = [state for state in readers if state is not None]
    if len(states) < len(readers):
        return None
    if len(states) == world:
        return states[rank]
    there = len(states)
    count = sum(len(state[0]) for state in states)
    places = [(reader % there, reader // there) for reader in range(rank, count, world)]
    if any(row >= len(states[other][0]) for other, row in places):
        return None
    return tuple(
        torch.stack([states[other][part][row] for other, row in places]) for part in range(len(states[0]))
    )


def _all_reduced(sums: Tensor) -> Tensor:
    whole = sums.clone()
    torch.distributed.all_reduce(whole)
    return whole

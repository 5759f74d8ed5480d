"""One training of one model: steps, log names, optimizer."""

import warnings
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from klann_lightning.errors import CheckpointError, ConfigError
from klann_lightning.losses import TERMS, MultiResolutionStft, StftResolutions
from klann_lightning.metrics import FileScores
from klann_lightning.models.base import AudioModel, State
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
        with (
            warnings.catch_warnings()
        ):  # advice on hyper-parameters that pickle; the command line's are plain
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
        self.mr_stft = MultiResolutionStft(mr_stft)
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
        begun = load_model(self.init_from)
        if begun.sample_rate != self.model.sample_rate:
            raise CheckpointError(
                f"model.init_from: {self.init_from} is for {begun.sample_rate} Hz, the experiment for "
                f"{self.model.sample_rate} Hz. Set data.sample_rate to {begun.sample_rate}."
            )
        if other := _difference(begun, self.model):
            raise CheckpointError(
                f"model.init_from: {self.init_from} holds {other}. "
                f"To start from it, configure {_configuration(self.init_from)}."
            )
        return begun

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """With the readers' own states, not all of what they may be views of."""
        checkpoint["readers"] = self._readers and tuple(part.clone() for part in self._readers)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """A training goes on where its readers stood."""
        self._readers = checkpoint.get("readers")

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
        self.log_dict(means, sync_dist=True)

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
        """The stage's loss terms, unweighted, averaged over the rows."""
        rows = {
            name: TERMS[name](output, target, self.target_power)
            for name in self.stage.weights
            if name in TERMS
        }
        terms = {name: (value * weight).sum() / weight.sum() for name, value in rows.items()}
        if "mr_stft" in self.stage.weights:
            terms["mr_stft"] = self.mr_stft(output, target)
        return terms

    def _score(self, batch: dict[str, Any]) -> None:
        output, self._listener = self.model.advance(batch["input"], batch["fresh"], self._listener)
        scored = slice(batch["skip"], None)
        self.scores.update(output[:, scored], batch["target"][:, scored], last=batch["last"])

    def _log_scores(self, split: str) -> None:
        scores = {name: value.float() for name, value in self.scores.compute().items()}
        if split == "val":
            self.val_scores = {name: float(value) for name, value in scores.items()}
        logged = {
            f"{split}/loss": self.stage.loss_of(scores),
            **{f"{split}/{name}": scores[name] for name in ("esr_db", "mr_stft")},
        }
        self.log_dict(logged, sync_dist=True)  # equal on every rank


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint, of which only tensors and plain data are unpickled; or CheckpointError."""
    if not path.is_file():
        raise CheckpointError(f"no such checkpoint: {path}. Check its name and its folder.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever the bytes lead it to
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {reason}") from error
    if not isinstance(content, dict) or not {"state_dict", "hyper_parameters"} <= content.keys():
        raise CheckpointError(f"{path} is not a checkpoint of a fit: it lacks weights or hyper-parameters.")
    return content


def _difference(begun: AudioModel, configured: AudioModel) -> str | None:
    """In which class, size or initial state two models differ, in words."""
    classes = [type(model).__name__ for model in (begun, configured)]
    if type(begun) is not type(configured):
        return f"a {classes[0]}, the experiment configures a {classes[1]}"
    states = [model.state_dict() for model in (begun, configured)]
    for name in dict.fromkeys([*states[0], *states[1]]):
        there, here = (list(state[name].shape) if name in state else "absent" for state in states)
        if there != here:
            return f"a {classes[0]} of other sizes: its {name} is {there}, the configured one's {here}"
    memories = [[model.block, *(part.shape for part in model.init_state(1))] for model in (begun, configured)]
    if memories[0] != memories[1]:
        return f"a {classes[0]} that remembers other samples than the configured one: its arguments differ"
    theirs, ours = (getattr(model, "initial", None) for model in (begun, configured))
    if theirs != ours:
        return f"a {classes[0]} whose filters start from {theirs}, the configured one's start from {ours}"
    return None


def _configuration(checkpoint: Path) -> str:
    """A checkpoint's class, sizes and initial state, as options of fit."""
    model = read_checkpoint(checkpoint)["hyper_parameters"]["model"]
    sizes = {
        name: value
        for name, value in model["init_args"].items()
        if isinstance(value, list) or name == "initial" or (type(value) is int and name != "sample_rate")
    }
    values = {name: f"'{value}'" if isinstance(value, list) else value for name, value in sizes.items()}
    options = [f"--model.model.{name} {value}" for name, value in values.items()]
    return " ".join([f"--model.model {model['class_path']}", *options])


def load_model(checkpoint: Path) -> AudioModel:
    """The trained model of a checkpoint, on the CPU, ready to play; CheckpointError says why not."""
    read_checkpoint(checkpoint)
    try:
        module = EffectModule.load_from_checkpoint(checkpoint, map_location="cpu", weights_only=True)
    except Exception as error:  # of jsonargparse, Lightning or torch, each with its own kinds
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{checkpoint} holds another version's or another model: {reason}") from error
    return module.model.eval()

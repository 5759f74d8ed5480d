"""A training as it is written down: its stages, and how they share the epochs."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Literal

import torch
from torch import nn

from klann_lightning.configs import plain_name
from klann_lightning.data.feeds import Feed
from klann_lightning.errors import ConfigError
from klann_lightning.losses import TERMS

PLATEAU = 5  # validations without a better `val/loss`, after which the schedule `plateau` halves the rate

OptimizerFactory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


@dataclass(frozen=True)
class LossStage:
    """One stage of a training: what is minimised, how fast, and when it ends."""

    name: str
    weights: dict[str, float]  # loss terms and their weights
    epochs: int | None = None  # ends after so many
    patience: int | None = None  # ends after so many validations without a better `val/loss`
    start_from: Literal["best", "last"] = "best"  # of the stage before
    optimizer: OptimizerFactory | None = None  # instead of the experiment's
    feed: Feed | None = None  # instead of the data's
    lr: float = 1e-3  # learning rate after the warm-up
    warmup_steps: int = 0  # learning rate rises linearly over so many steps
    schedule: Literal["constant", "cosine", "plateau"] = "constant"  # cosine needs `epochs`
    final_lr: float = 0.0  # where the cosine ends, as a part of `lr`
    starts: int = 1  # random starts that are tried first, in turn; the best of them trains on
    start_epochs: int = 0  # of the stage's, that each of them gets, with a warm-up and a schedule of its own
    relative: bool = False  # the terms are weighed as if all had the first one's value when the stage begins

    def __post_init__(self) -> None:
        plain_name(self.name, "stage")
        unknown = sorted(set(self.weights) - set(TERMS) - {"mr_stft"})
        if unknown or not self.weights:
            raise ConfigError(
                f"stage {self.name!r} weighs {', '.join(unknown) or 'nothing'}; "
                f"the loss terms are {', '.join([*TERMS, 'mr_stft'])}"
            )
        if self.epochs is None and self.patience is None:
            raise ConfigError(f"stage {self.name!r} never ends: give it epochs or patience")
        if self.schedule == "cosine" and self.epochs is None:
            raise ConfigError(f"stage {self.name!r}: a cosine needs to know its length; give it epochs")
        if self.starts < 1 or (self.starts > 1 and self.start_epochs < 1):
            raise ConfigError(
                f"stage {self.name!r}: {self.starts} starts of {self.start_epochs} epochs; "
                "both must be at least 1"
            )
        if self.starts > 1 and self.starts * self.start_epochs >= (self.epochs or 0):
            raise ConfigError(
                f"stage {self.name!r}: {self.starts} starts of {self.start_epochs} epochs leave none of "
                f"its {self.epochs}; give it more epochs"
            )

    def loss_of(self, scores: Mapping[str, Any]) -> Any:
        """The stage's loss out of every term's value, floats or tensors []."""
        return sum(weight * scores[name] for name, weight in self.weights.items())


def weighed_in_units(weights: dict[str, float], values: Mapping[str, float]) -> dict[str, float]:
    """Weights of terms in units of their `values`: each times the first term's value over its own.

    What one weight of MR-STFT costs in ESR depends on how small the ESR has become; a ratio does not.

    >>> weighed_in_units({"esr": 1.0, "mr_stft": 2.0}, {"esr": 0.001, "mr_stft": 0.5})
    {'esr': 1.0, 'mr_stft': 0.004}
    """
    first = values[next(iter(weights))]
    return {name: weight * first / values[name] for name, weight in weights.items()}


def learning_rate(stage: LossStage, step: int, steps: int, plateaus: int = 0) -> float:
    """The rate at a step of a stage: linear warm-up, then constant or a cosine over all its steps.

    With the schedule `plateau` it halves at each of the `plateaus` that the stage has gone through.

    >>> learning_rate(LossStage("time", {"mse": 1.0}, epochs=1, lr=0.1, warmup_steps=4), 1, 100)
    0.05
    """
    rate = stage.lr * min(1.0, (step + 1) / max(1, stage.warmup_steps))
    if stage.schedule == "plateau":
        return rate * 0.5**plateaus
    if stage.schedule == "constant":
        return rate
    fall = 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))
    return rate * (stage.final_lr + (1 - stage.final_lr) * fall)


def stage_epochs(stages: list[LossStage], max_epochs: int) -> list[int | None]:
    """How many epochs each stage gets when the trainer stops after `max_epochs` (-1: never).

    Fewer than the stages' sum shortens all in proportion, each to at least one while they last, so
    that a short trial goes through every stage. Stages that end on a plateau alone are left as they are.

    >>> stage_epochs([LossStage("a", {"mse": 1}, epochs=60), LossStage("b", {"mse": 1}, epochs=20)], 8)
    [6, 2]
    """
    epochs = [stage.epochs for stage in stages]
    known = [count for count in epochs if count is not None]
    if len(known) < len(epochs) or not 0 < max_epochs < sum(known):
        return epochs
    ends = [0]
    for index, through in enumerate(accumulate(known), start=1):
        fair = round(max_epochs * through / sum(known))
        room = max_epochs - (len(known) - index)  # leaves an epoch for each stage after
        ends.append(min(max_epochs, max(ends[-1] + 1, min(fair, room))))
    return [end - start for start, end in pairwise(ends)]


def starts_of(stage: LossStage, epochs: int | None) -> tuple[int, int]:
    """How many random starts a stage of so many epochs tries, and how many epochs each of them gets.

    A shortened stage shortens them alike, and tries fewer where they would take more than a quarter of it.

    >>> stage = LossStage("time", {"mse": 1.0}, epochs=100, starts=8, start_epochs=5)
    >>> starts_of(stage, 100), starts_of(stage, 20), starts_of(stage, 6), starts_of(stage, 3)
    ((8, 5), (5, 1), (1, 0), (1, 0))
    """
    if stage.starts == 1 or epochs is None or stage.epochs is None:
        return 1, 0
    if epochs >= stage.epochs:
        return stage.starts, stage.start_epochs
    each = max(1, round(stage.start_epochs * epochs / stage.epochs))
    starts = min(stage.starts, epochs // (4 * each))
    return (starts, each) if starts > 1 else (1, 0)

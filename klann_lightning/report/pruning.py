"""The smaller model that does the same: a KLANN without the channels that nothing is lost by."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from klann_lightning.errors import CheckpointError
from klann_lightning.inside import Takes, checked, moments, played_esr_db
from klann_lightning.models.klann import Klann
from klann_lightning.models.stacked import StackedKlann
from klann_lightning.models.surgery import removable, without
from klann_lightning.reading import IDLE_DB
from klann_lightning.training.checkpoints import RECORDINGS, read_checkpoint, write_weights


class Step(NamedTuple):
    """A model on the way; the first is the one that it began with."""

    removed: tuple[str, ...]  # in this step, by the first model's names; a stacked one loses several at once
    esr_db: float  # on the recordings that were given
    parameters: int
    multiply_adds: int  # a sample


@dataclass(frozen=True)
class Pruned:
    """What has come of it."""

    model: Klann
    steps: list[Step]

    @property
    def removed(self) -> list[str]:
        """The channels that have gone, in this order."""
        return [name for step in self.steps for name in step.removed]


def prune(model: Klann, val_takes: Takes, context: int, allowed_db: float = IDLE_DB) -> Pruned:
    """Take out what costs least, again and again, while the ESR rises by no more than `allowed_db` in all.

    Greedy, on recordings that the model was not trained on; each channel that goes is held at its mean over
    them, as it is in the model of that step. What can go is `models.surgery.removable`; takes as for
    `read_klann`. Costs as many passes as there are channels for each step. The model given stays as it is.
    """
    takes = checked(model, val_takes, context)
    names = model.channel_names()
    steps = [_step(model, (), played_esr_db(model, takes, context))]
    while True:
        found = _cheapest(model, takes, context)
        if found is None or not found[0] - steps[0].esr_db <= allowed_db:  # also where there is no ESR
            return Pruned(model, steps)
        ratio_db, channels, model = found
        steps.append(_step(model, tuple(names[channel] for channel in channels), ratio_db))
        names = [name for channel, name in enumerate(names) if channel not in channels]


def write_pruned(pruned: Pruned, source: Path, out: Path) -> None:
    """The checkpoint of the smaller model, all else as in the larger one's, but no training to resume.

    Raises CheckpointError where `source` holds another model than the one that was pruned, or `out` cannot be
    written.
    """
    content = read_checkpoint(source)
    parameters = content["hyper_parameters"]
    model = pruned.model
    class_path = f"{type(model).__module__}.{type(model).__qualname__}"
    there = len(content["state_dict"].get("model.bank.cutoff", ()))
    channels = len(model.bank.cutoff) + len(pruned.removed)
    if (parameters["model"]["class_path"], there) != (class_path, channels):
        raise CheckpointError(
            f"{source} does not hold the {type(model).__name__} that was pruned. Name the checkpoint that "
            "it was loaded from."
        )
    init_args = {**parameters["model"]["init_args"], "lift_dim": model.lift.last.out_features}
    if isinstance(model, StackedKlann):
        init_args["banks"] = len(model.maps) + 1
    kept = {name: value for name, value in content["state_dict"].items() if not name.startswith("model.")}
    weights = {f"model.{name}": value for name, value in model.state_dict().items()}
    smaller = {**parameters["model"], "init_args": init_args}
    write_weights(out, {**parameters, "model": smaller}, {**kept, **weights}, content.get(RECORDINGS))


def _cheapest(model: Klann, takes: Takes, context: int) -> tuple[float, list[int], Klann] | None:
    """ESR in dB without the channels that cost least, these, and the model without them."""
    candidates = removable(model)
    if not candidates:
        return None
    means = moments(model, takes, context)[0]
    smaller = [(channels, without(model, channels, means)) for channels in candidates]
    tried = [(played_esr_db(one, takes, context), channels, one) for channels, one in smaller]
    return min(tried, key=lambda found: found[0])


def _step(model: Klann, removed: Sequence[str], ratio_db: float) -> Step:
    return Step(tuple(removed), ratio_db, model.parameter_count(), model.multiply_adds())

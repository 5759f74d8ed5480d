"""A trained KLANN with channels at a standstill, or without them.

A filter that always gives the same value is a bias of what reads it: so both are exact, from the start on.
"""

import copy
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from klann_lightning.errors import ConfigError
from klann_lightning.models.klann import Klann, ParallelKlann, ParallelSeriesKlann
from klann_lightning.models.parts import FilterBank
from klann_lightning.models.stacked import StackedKlann


class Means(NamedTuple):
    """Of what every filter is given and of what it makes, [F] each."""

    entering: Tensor
    leaving: Tensor


@torch.no_grad()
def standing_still(model: Klann, channels: Sequence[int], means: Means) -> Klann:
    """A copy in which the filters of these channels always give their mean; so does its initial state.

    The filters' last gains are 0, and the means lie in the biases of what they went to.
    """
    still = copy.deepcopy(model)
    for channel in channels:
        still.bank.mix[channel, -1] = 0
        for network, column in _readers(still, channel):
            _fold(network, column, float(means.leaving[channel]))
    return still


def removable(model: Klann) -> list[list[int]]:
    """The channels that can go, each with those that must go at the same time.

    Parallel: each, but not the last one left. Parallel-series: each but the first, whose filter is the only
    one without a map before it: the second one's map bends what enters, as no row of the lift does. Stacked:
    one place in all banks, as all are equally wide, or the last bank; the map after another bank bends too.
    """
    count = len(model.bank.cutoff)
    if isinstance(model, ParallelKlann):
        return [[channel] for channel in range(count)] if count > 1 else []
    if isinstance(model, ParallelSeriesKlann):
        return [[channel] for channel in range(1, count)]
    if isinstance(model, StackedKlann):
        width = model.lift.last.out_features
        places = [list(range(place, count, width)) for place in range(width)] if width > 1 else []
        last = [list(range(count - width, count))] if len(model.maps) else []
        return [*places, *last]
    raise ConfigError(
        f"it is not known how the channels of a {type(model).__name__} go on: only a ParallelKlann, a "
        "ParallelSeriesKlann or a StackedKlann can be made smaller."
    )


@torch.no_grad()
def without(model: Klann, channels: Sequence[int], means: Means) -> Klann:
    """The model of fewer channels that equals this one with these at their means; one entry of `removable`.

    In a stacked one also what goes past a bank's filter at a place is held at its mean, by the maps' biases.
    Raises ConfigError where no smaller model of its class is equal.
    """
    if list(channels) not in removable(model):
        names = [model.channel_names()[channel] for channel in channels]
        raise ConfigError(f"{', '.join(names)} cannot be taken out exactly: {_reason(model)}")
    smaller = standing_still(model, channels, means)
    kept = [channel for channel in range(len(model.bank.cutoff)) if channel not in channels]
    if isinstance(smaller, StackedKlann):
        _cut_stacked(smaller, channels, means)
    else:
        _keep(smaller.lift.last, rows=kept)
    if isinstance(smaller, ParallelSeriesKlann):
        smaller.mids = nn.ModuleList(smaller.mids[channel - 1] for channel in kept[1:])
    _keep(first_layer(smaller.down), columns=kept)
    _keep_filters(smaller.bank, kept)
    return smaller


def first_layer(network: Any) -> nn.Linear:
    """What reads a pointwise network's input."""
    layer: nn.Linear = network.gated[0] if len(network.gated) else network.last
    return layer


def _reason(model: Klann) -> str:
    if isinstance(model, ParallelSeriesKlann):
        return (
            "the first channel of a ParallelSeriesKlann is the only one whose filter has no map before it. "
            "Leave it in, and take out one of the others."
        )
    if isinstance(model, StackedKlann):
        return (
            "the banks of a StackedKlann are equally wide, and each but the last one feeds the next. Take "
            "out the same place in all banks, where there is more than one, or the last bank."
        )
    return "a model needs at least one channel. Leave it in."


def _readers(model: Klann, channel: int) -> Iterator[tuple[Any, int]]:
    """Every network that a channel's filter goes to, and as which of its inputs."""
    yield model.down, channel
    if isinstance(model, ParallelSeriesKlann) and channel < len(model.mids):
        yield model.mids[channel], 0
    if isinstance(model, StackedKlann):
        bank, place = divmod(channel, model.lift.last.out_features)
        if bank < len(model.maps):
            yield model.maps[bank], place


def _fold(network: Any, column: int, value: float) -> None:
    """A constant input into the first bias; the column then hears nothing."""
    layer = first_layer(network)
    layer.bias.add_(layer.weight[:, column] * value)
    layer.weight[:, column] = 0


def _cut_stacked(model: StackedKlann, channels: Sequence[int], means: Means) -> None:
    """One place out of the lift and the maps, or the last map."""
    width = model.lift.last.out_features
    if len({channel % width for channel in channels}) > 1 or width == 1:
        model.maps = model.maps[:-1]
        return
    place = channels[0]
    kept = [other for other in range(width) if other != place]
    _keep(model.lift.last, rows=kept)
    for bank, network in enumerate(model.maps):
        mixed: Any = network
        _fold(mixed, width + place, float(means.entering[bank * width + place]))
        _keep(first_layer(mixed), columns=[*kept, *(width + other for other in kept)])
        _keep(mixed.last, rows=kept)


def _keep(layer: nn.Linear, rows: Sequence[int] | None = None, columns: Sequence[int] | None = None) -> None:
    weight: Tensor = layer.weight if rows is None else layer.weight[rows]
    bias: Tensor = layer.bias if rows is None else layer.bias[rows]
    weight = weight if columns is None else weight[:, columns]
    layer.weight, layer.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())
    layer.out_features, layer.in_features = weight.shape


def _keep_filters(bank: FilterBank, kept: Sequence[int]) -> None:
    for name in ("cutoff", "damping", "mix"):
        setattr(bank, name, nn.Parameter(getattr(bank, name)[kept].clone()))
    bank._start_cutoff = bank._start_cutoff[kept]

"""What a KLANN does to a sample before its filters, as functions of that sample alone."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from klann_lightning.models.klann import Klann
from klann_lightning.models.surgery import Means

LEVELS = 4097  # into which the amplitudes that occur are sorted; odd, so that zero is among them
POINTS = 401  # of a curve
STRAIGHT, ONE_KIND = 0.98, 0.9  # shares of variance
NO_SPREAD = 1e-12  # variance over the square of the largest value
SOFT, LOUD = 0.25, 0.99  # shares of the amplitudes that lie below


class Curve(NamedTuple):
    """What a sample becomes before it enters a filter, while every filter before stands still at its mean."""

    x: NDArray[np.float64]  # -1 to 1, as in the recording
    u: NDArray[np.float64]
    kind: str  # constant, straight, odd, even or mixed
    straight: float  # share of the variance that the best line explains, of amplitudes as they occur
    odd: float  # share of the odd part, which the line belongs to
    even: float  # the rest
    steepness: float  # of the odd part at loud amplitudes over that at soft ones; below 1 it is clipped
    rises: float  # correlation of the even part with |x|, -1 to 1


class Statics:
    """The functions of all F channels over the amplitudes of a recording: u = mean + gain x + odd + even.

    [F, LEVELS] each, in float64; `odd` is what of the odd part is no line.
    """

    def __init__(self, model: Klann, means: Means, inputs: Sequence[Tensor]) -> None:
        """Of `inputs`, [T] each, only the amplitudes count."""
        self.peak = max(1e-6, *(float(x.abs().max()) for x in inputs))
        counts = [torch.histc(x.float().cpu(), LEVELS, -self.peak, self.peak).double() for x in inputs]
        self.weights = torch.stack(counts).sum(0)
        self.weights /= self.weights.sum()
        self.x = torch.linspace(-self.peak, self.peak, LEVELS, dtype=torch.float64)
        self.u = entering(model, means, self.x)
        centred = self.u - (self.u @ self.weights)[:, None]
        self.all_odd, self.even = (self.u - self.u.flip(1)) / 2, (centred + centred.flip(1)) / 2
        self.gain = self.covariance(centred, self.x) / self.covariance(self.x[None], self.x)
        self.odd = self.all_odd - self.gain[:, None] * self.x

    def covariance(self, a: Tensor, b: Tensor) -> Tensor:
        """[F, LEVELS] with [.., LEVELS], over the amplitudes as they occur -> [F]."""
        return (a * b) @ self.weights - (a @ self.weights) * (b @ self.weights)

    def at(self, part: Tensor, x: Tensor) -> Tensor:
        """A part [F, LEVELS] at samples x [T], linear between its points -> [F, T]."""
        place = ((x.double() / self.peak + 1) * ((LEVELS - 1) / 2)).clamp(0, LEVELS - 1)
        below = place.long().clamp(max=LEVELS - 2)
        table = part.to(x)
        return torch.lerp(table[:, below], table[:, below + 1], (place - below).to(x))

    def curves(self, model: Klann, means: Means) -> list[Curve]:
        """One a channel."""
        x = torch.linspace(-1, 1, POINTS, dtype=torch.float64)
        drawn = entering(model, means, x)
        total, odd, even = (self.covariance(part, part) for part in (self.u, self.all_odd, self.even))
        line = self.gain.square() * self.covariance(self.x[None], self.x)
        level = self.x.abs()
        rises = self.covariance(self.even, level) / (even * self.covariance(level[None], level)).sqrt()
        steepness = self._steepness()
        found = []
        for f, (u, variance) in enumerate(zip(self.u, total.tolist(), strict=True)):
            flat = variance <= NO_SPREAD * float(u.abs().max()) ** 2
            odd_and_even = odd[f] + even[f]
            pairs = (line[f], total[f]), (odd[f], odd_and_even), (even[f], odd_and_even)
            shares = [0.0 if flat else float(part / whole) for part, whole in pairs]
            kind = "constant" if flat else _kind(*shares)
            bend = float(steepness[f].nan_to_num()), float(rises[f].nan_to_num())
            found.append(Curve(x.numpy(), drawn[f].numpy(), kind, shares[0], shares[1], shares[2], *bend))
        return found

    def _steepness(self) -> Tensor:
        """[F]."""
        half = LEVELS // 2
        amplitudes = (self.weights + self.weights.flip(0))[half + 1 :].cumsum(0)
        shares = torch.tensor([SOFT, LOUD], dtype=torch.float64) * amplitudes[-1]
        soft, loud = (max(2, min(int(i), half - 2)) for i in torch.searchsorted(amplitudes, shares))
        steps = self.all_odd[:, half:].diff(dim=1)
        return steps[:, loud - 2 : loud + 2].mean(1) / steps[:, :soft].mean(1)


def entering(model: Klann, means: Means, x: Tensor) -> Tensor:
    """What enters the filters at samples x [N] while all stand still at their means: [F, N], float64."""
    given: list[Tensor] = []

    def run(channels: Tensor, filters: slice) -> Tensor:
        given.append(channels)
        return means.leaving[None, filters, None].to(channels).expand_as(channels)

    model.linear(model.lift((x.to(model.bank.cutoff) / model.input_level)[None, None]), run)
    return torch.cat(given, 1)[0].double()


def _kind(straight: float, odd: float, even: float) -> str:
    """Of shares of variance.

    >>> [_kind(0.999, 1, 0), _kind(0.8, 0.97, 0.03), _kind(0, 0.02, 0.98), _kind(0.5, 0.6, 0.4)]
    ['straight', 'odd', 'even', 'mixed']
    """
    if straight > STRAIGHT:
        return "straight"
    if odd > ONE_KIND:
        return "odd"
    return "even" if even > ONE_KIND else "mixed"

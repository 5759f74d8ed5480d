"""A KLANN that plays recordings, watched from inside. Only the scored samples count."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from klann_lightning.dsp.poles import Mode, Shape, modes, response
from klann_lightning.dsp.svf import SvfControls
from klann_lightning.errors import ConfigError
from klann_lightning.metrics import decibels
from klann_lightning.models.klann import Klann
from klann_lightning.models.statics import Statics
from klann_lightning.models.surgery import Means

Values = NDArray[np.float64]
Takes = Sequence[tuple[Tensor, Tensor]]  # input and target [T] of each recording

BLOCK = 1 << 18  # samples at a time: 6 s at 44.1 kHz, 1 MB a signal in float32
SLOW_HZ = 20.0  # what is slower is no sound
TINY = 1e-30


class Parts(NamedTuple):
    """Shares of a signal's variance, by what they are as functions of the input sample."""

    straight: float  # a line
    odd: float  # odd and no line: clipped, or expanded
    even: float  # alike for both signs: a level, or even harmonics
    memory: float  # no function of the sample: what the filters before make of the past


def checked(model: Klann, takes: Takes, context: int) -> list[tuple[Tensor, Tensor]]:
    """The takes in the model's precision; ConfigError where nothing of one is scored."""
    for x, target in takes:
        if x.ndim != 1 or x.shape != target.shape or len(x) <= context:
            raise ConfigError(
                f"a take has an input of shape {list(x.shape)} and a target of {list(target.shape)}: both "
                f"must be [T], T above the context of {context} samples. Cut them alike, or take longer ones."
            )
    if not takes:
        raise ConfigError("there is no recording to read the model on. Give at least one.")
    return [(x.to(model.bank.cutoff), target.to(model.bank.cutoff)) for x, target in takes]


def esr_db(outputs: Sequence[Tensor], takes: Takes, context: int) -> float:
    """Of the scored samples of all takes together."""
    error, target = torch.zeros(2, dtype=torch.float64)
    for output, (_, wanted) in zip(outputs, takes, strict=True):
        error += (output - wanted)[context:].double().square().sum()
        target += wanted[context:].double().square().sum()
    return float(decibels(error / target))


def played_esr_db(model: Klann, takes: Takes, context: int) -> float:
    """The same, of what a model makes of them."""
    return esr_db([model.play_whole(x) for x, _ in takes], takes, context)


def inside(model: Klann, takes: Takes, context: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Scored samples block by block: input [T], what enters the filters [F, T], and what leaves them."""
    for x, _ in takes:
        state, at = model.init_state(1), 0
        for block in x[None].split(BLOCK, -1):
            one, state = model.inside(block, state)
            skip, at = max(0, context - at), at + block.shape[-1]
            if skip < block.shape[-1]:
                yield block[0, skip:], one.entering[0, :, skip:], one.leaving[0, :, skip:]


@torch.no_grad()
def moments(model: Klann, takes: Takes, context: int) -> tuple[Means, Tensor]:
    """Means, and the deviation of what leaves, [F] each."""
    count, sums = 0, torch.zeros(3, len(model.bank.cutoff), dtype=torch.float64)
    for x, entering, leaving in inside(model, takes, context):
        wide = leaving.double()
        sums += torch.stack([entering.double().sum(1), wide.sum(1), wide.square().sum(1)])
        count += len(x)
    entering_mean, mean, square = sums / count
    return Means(entering_mean, mean), (square - mean.square()).clamp(min=0).sqrt()


class Heard:
    """Energies of what the F filters were given and made, from spectra of blocks without their means.

    So what changes more slowly than a block lasts is not among them. With n bins:
      omega [n] in radians a sample; entering, leaving [F, n]; slow, sound [F, parts]: those of Parts, of what
      leaves below and above SLOW_HZ
    """

    def __init__(
        self, model: Klann, cascades: Sequence[SvfControls], takes: Takes, context: int, statics: Statics
    ) -> None:
        bins = BLOCK // 2
        self.omega = np.pi / bins * np.arange(1, bins)
        gain = torch.from_numpy(np.stack([np.abs(response(one, self.omega)) ** 2 for one in cascades]))
        below = round(SLOW_HZ / model.sample_rate * BLOCK)
        entering = torch.zeros_like(gain)
        slow, sound = torch.zeros(2, len(cascades), len(Parts._fields), dtype=torch.float64)
        for x, given, _ in inside(model, takes, context):
            line = _spectrum(x)
            for f in range(len(cascades)):
                odd, even = (statics.at(part[f : f + 1], x)[0] for part in (statics.odd, statics.even))
                straight = float(statics.gain[f]) * line
                own = statics.gain[f].to(x) * x + odd + even
                parts = [straight, *map(_spectrum, (odd, even, given[f] - own))]
                spectra = torch.stack(parts)
                entering[f] += _power(spectra.sum(0))
                powers = _power(spectra) * gain[f]
                slow[f] += powers[:, :below].sum(1)
                sound[f] += powers[:, below:].sum(1)
        self.entering, self.leaving = entering.numpy(), (entering * gain).numpy()
        self.slow, self.sound = slow.numpy(), sound.numpy()

    def within(self, index: int, passing: Shape, sample_rate: float) -> float:
        """Of what leaves above SLOW_HZ, the share between the limits of what passes."""
        hertz = self.omega * sample_rate / (2 * np.pi)
        leaving = np.where(hertz > SLOW_HZ, self.leaving[index], 0)
        high = np.inf if passing.high_hz is None else passing.high_hz
        inside = (hertz >= (passing.low_hz or 0)) & (hertz <= high)
        return float(leaving[inside].sum() / max(leaving.sum(), TINY))


def strongest(cascade: SvfControls, sample_rate: float, heard: Heard, index: int) -> tuple[Mode, float]:
    """The part of the impulse response with the most energy at the output, and that over the output's.

    By partial fractions: each pole's, or conjugate pair's, own response to what the filter was given. A slow
    pole beside a zero has a small residue, and a pole where nothing is to be heard has little to say: neither
    makes a channel slow. Near each other, poles can have large parts that cancel: so the share ends at 1.
    """
    entering = heard.entering[index]
    powers = [
        (float(entering @ np.abs(mode.response(heard.omega)) ** 2), mode)
        for mode in modes(cascade, sample_rate)
    ]
    power, mode = max(powers, key=lambda pair: pair[0])
    return mode, min(1.0, power / max(float(heard.leaving[index].sum()), TINY))


def shares(energies: Values) -> Parts:
    """Of energies [parts]; of nothing, all are 0."""
    return Parts(*(energies / max(energies.sum(), TINY)).tolist())


def _spectrum(x: Tensor) -> Tensor:
    """[T] up to BLOCK -> the bins between 0 Hz and Nyquist, of a Hann window."""
    window = torch.hann_window(len(x), dtype=x.dtype, device=x.device)
    return torch.fft.rfft((x - x.mean()) * window, BLOCK)[1:-1]


def _power(spectrum: Tensor) -> Tensor:
    return torch.view_as_real(spectrum).square().sum(-1).double()

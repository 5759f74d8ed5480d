"""What a trained KLANN does, read from inside: curves, filters, and what each channel is good for.

Every number is measured on recordings: shares are of the variance that occurs in them, and a channel's part
in the output is what its absence costs there. A channel is absent where its filter's output stands still at
its mean over the scored samples: the constant that the rest may need stays.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from klann_lightning.dsp.poles import Biquad, Mode, Shape, biquads, response, shape
from klann_lightning.dsp.svf import SvfControls
from klann_lightning.inside import (
    SLOW_HZ,
    TINY,
    Heard,
    Parts,
    Takes,
    checked,
    esr_db,
    moments,
    shares,
    strongest,
)
from klann_lightning.metrics import decibels
from klann_lightning.models.klann import Klann, ParallelSeriesKlann
from klann_lightning.models.stacked import StackedKlann
from klann_lightning.models.statics import Curve, Statics
from klann_lightning.models.surgery import Means, standing_still

Values = NDArray[np.float64]
GRID_POINTS, GRID_START_HZ = 400, 0.1
IDLE_DB = 0.1  # of ESR
TONE_HZ, SETTLING_SECONDS = 1000, 3

# Of the sentences: shares of variance from which on something is said.
MOST, MUCH, SOME = 0.7, 0.5, 0.2
NEARLY_STRAIGHT, CLIPPED = 0.05, 0.05  # of what is no line, and of the odd part of that
CLIPS = 0.5  # steepness of the curve
SLOWER = 1.5  # times, from which on another time constant is named beside the first
STANDS_STILL = 1e-3  # deviation over the mean
RINGING = 5.0  # quality factor


class Contribution(NamedTuple):
    """The recordings without a channel."""

    esr_db: float
    cost_db: float  # by which the ESR is higher than with it
    change_db: float  # energy of the output's change over that of the output


@dataclass(frozen=True)
class ChannelReading:
    """One channel of the bank; what is said of its output is of its variance, the mean left out."""

    name: str
    before: str  # whose output its filter is given too; empty where none
    curve: Curve
    biquads: list[Biquad]
    shape: Shape  # of the whole cascade
    magnitude_db: Values  # of the cascade at the reading's frequencies
    phase_deg: Values  # the same, unwrapped
    mode: Mode  # see `inside.strongest`
    mode_share: float  # its part in the output's energy, at most 1
    slow_share: float  # of the output's energy, below SLOW_HZ
    slow: Parts  # of the output below SLOW_HZ
    sound: Parts  # and above
    within: float  # share of the output's energy above SLOW_HZ that lies within the limits of the shape
    mean: float  # of the output
    deviation: float  # the same, its standard deviation
    contribution: Contribution

    @property
    def time_constant_ms(self) -> float:
        """In which the strongest part of the impulse response falls to 1/e."""
        return self.mode.time_constant_ms

    @property
    def idle(self) -> bool:
        """Whether leaving it out costs less than IDLE_DB."""
        return self.contribution.cost_db < IDLE_DB

    @property
    def sentence(self) -> str:
        """What it does, where that is clear; else empty."""
        if self.deviation <= STANDS_STILL * abs(self.mean):
            return "holds a constant"
        if self.idle:
            return f"idle: leaving it out costs {max(self.contribution.cost_db, 0):.2f} dB"
        clauses = [(self.slow_share, self._slow_clause()), (1 - self.slow_share, self._sound_clause())]
        said = [clause for share, clause in sorted(clauses, reverse=True) if share >= SOME and clause]
        if self._rings and self.mode.frequency_hz >= SLOW_HZ:
            said.append(f"rings at {hertz(self.mode.frequency_hz)}")
        return "; ".join(said)

    @property
    def _rings(self) -> bool:
        return self.mode.quality > RINGING and self.mode_share > MUCH

    def _slow_clause(self) -> str:
        lasts = f", time constant {seconds(self.time_constant_ms)}" if self.mode_share > SOME else ""
        if self._rings and self.mode.frequency_hz < SLOW_HZ:
            lasts += f", ringing at {hertz(self.mode.frequency_hz)}"
        if self.slow.even > MOST and abs(self.curve.rises) > MOST:
            return f"follows the level{lasts}"
        if self.slow.memory > MOST and self.before:
            return f"follows what {self.before} gives, below {SLOW_HZ:.0f} Hz{lasts}"
        return ""

    def _sound_clause(self) -> str:
        straight, odd, even, memory = self.sound
        own = straight + odd + even
        if self.before and memory > MOST:
            return f"carries on what {self.before} gives{self._limits()}"
        mixed = f", mixed with what {self.before} gives" if self.before and memory > SOME else ""
        bent = (odd + even) / max(own, TINY)
        if even > MUCH * own:
            kind = "carries the rectified sound"
        elif odd > CLIPPED * own and self.curve.steepness < CLIPS:
            kind = "carries the clipped sound" if odd > even else "carries the sound, clipped unevenly"
        elif bent < NEARLY_STRAIGHT:
            kind = "carries the sound, nearly straight"
        else:
            kind = f"carries the sound, bent ({100 * bent:.0f} % of it is not straight)"
        return f"{kind}{self._limits()}{mixed}"

    def _limits(self) -> str:
        """Of the filter, where its output lies between them; else of its slopes, on which the output lies."""
        low, high = self.shape.low_hz, self.shape.high_hz
        slopes = [f"rising up to {hertz(low)}"] if low is not None and low >= SLOW_HZ else []
        slopes += [f"falling from {hertz(high)} on"] if high is not None else []
        if self.within < MUCH and slopes:
            return f", {' and '.join(slopes)}"
        if low is not None and high is not None:
            return f", from {hertz(low)} to {hertz(high)}"
        if low is not None:
            return f", above {hertz(low)}" if low >= SLOW_HZ else ""
        return f", below {hertz(high)}" if high is not None else ""


@dataclass(frozen=True)
class KlannReading:
    """All channels, in the order of `channel_names`."""

    channels: list[ChannelReading]
    esr_db: float
    scored_seconds: float  # of the longest recording
    frequencies_hz: Values
    tone_hz: int
    odd_harmonics_db: float  # of a tone as loud as the recordings, over the tone; its own frequency left out
    even_harmonics_db: float

    def summary(self) -> list[str]:
        """The model in a few sentences."""
        working = [channel for channel in self.channels if not channel.idle]
        costly = sorted(working, key=lambda channel: -channel.contribution.cost_db)
        names = [f"{channel.name} ({channel.contribution.cost_db:.1f} dB)" for channel in costly[:3]]
        lines = [f"{len(working)} of its {len(self.channels)} channels carry the output."]
        if names:
            lines[0] = f"{lines[0][:-1]}; leaving one out costs most with {', '.join(names)}."
        if idle := [channel.name for channel in self.channels if channel.idle]:
            lines.append(f"Idle, at less than {IDLE_DB} dB each: {', '.join(idle)}.")
        lines += self._lasting(working)
        levels = [channel.name for channel in working if "follows the level" in channel.sentence]
        if levels:
            lines.append(f"The level is followed by {', '.join(levels)}.")
        lines.append(
            f"A steady tone at {hertz(self.tone_hz)}, as loud as the recordings, comes out with harmonics at "
            f"{self.odd_harmonics_db:.0f} dB (odd) and {self.even_harmonics_db:.0f} dB (even)."
        )
        return lines

    def _lasting(self, working: Sequence[ChannelReading]) -> Iterator[str]:
        """The slowest that a channel's output mostly is, and the slowest pole there is, if it is another."""
        mostly = max(
            ((c.time_constant_ms, c.name) for c in working if c.mode_share > SOME), default=(0.0, "")
        )
        poles = [(ms, c.name) for c in working for biquad in c.biquads for ms in biquad.time_constants_ms]
        slowest = max(poles, default=(0.0, ""))
        if mostly[0]:
            yield f"Of what channels mostly give, the slowest has {self._lasts(*mostly)}."
        if slowest[0] > SLOWER * mostly[0]:
            yield f"The slowest pole has {self._lasts(*slowest)}."

    def _lasts(self, milliseconds: float, name: str) -> str:
        beyond = f", more than recordings of {self.scored_seconds:.1f} s can tell"
        said = f"a time constant of {seconds(milliseconds)}, in {name}"
        return f"{said}{beyond}" if milliseconds / 1000 > self.scored_seconds else said


@torch.no_grad()
def read_klann(
    model: Klann, takes: Takes, context: int, frequencies_hz: Values | None = None
) -> KlannReading:
    """Read a model on recordings whose first `context` samples are played but not scored.

    Computed as the model is, float32 or float64; spectra, shares and filters in float64. Costs two plain
    passes and one fused pass a channel over the recordings, and some 200 MB of memory, minutes or not.
    Raises ConfigError for takes of which nothing is scored.
    """
    takes = checked(model, takes, context)
    if frequencies_hz is None:
        frequencies_hz = np.geomspace(GRID_START_HZ, model.sample_rate / 2, GRID_POINTS)
    means, deviations = moments(model, takes, context)
    statics = Statics(model, means, [x[context:] for x, _ in takes])
    curves = statics.curves(model, means)
    outputs = [model.play_whole(x) for x, _ in takes]
    full_db = esr_db(outputs, takes, context)
    cascades = _cascades(model)
    heard = Heard(model, cascades, takes, context, statics)
    channels = []
    for index, (name, cascade) in enumerate(zip(model.channel_names(), cascades, strict=True)):
        seen = response(cascade, 2 * np.pi * frequencies_hz / model.sample_rate)
        passing = shape(cascade, model.sample_rate)
        mode, share = strongest(cascade, model.sample_rate, heard, index)
        slow, sound = (shares(band[index]) for band in (heard.slow, heard.sound))
        energies = heard.slow[index].sum(), heard.sound[index].sum()
        channels.append(
            ChannelReading(
                name,
                _before(model, index),
                curves[index],
                biquads(cascade, model.sample_rate),
                passing,
                20 * np.log10(np.maximum(np.abs(seen), 1e-15)),
                np.degrees(np.unwrap(np.angle(seen))),
                mode,
                share,
                float(energies[0] / max(sum(energies), TINY)),
                slow,
                sound,
                heard.within(index, passing, model.sample_rate),
                float(means.leaving[index]),
                float(deviations[index]),
                _contribution(model, index, means, takes, context, outputs, full_db),
            )
        )
    odd_db, even_db = _harmonics(model, takes, context)
    scored_seconds = (max(len(x) for x, _ in takes) - context) / model.sample_rate
    return KlannReading(channels, full_db, scored_seconds, frequencies_hz, TONE_HZ, odd_db, even_db)


def hertz(value: float) -> str:
    """Two digits.

    >>> hertz(0.9705), hertz(824.07), hertz(19288.3)
    ('0.97 Hz', '820 Hz', '19 kHz')
    """
    return f"{_two_digits(value)} Hz" if value < 995 else f"{_two_digits(value / 1000)} kHz"


def seconds(milliseconds: float) -> str:
    """Two digits.

    >>> seconds(1137.6), seconds(506.29), seconds(0.0561)
    ('1.1 s', '510 ms', '0.056 ms')
    """
    if milliseconds < 995:
        return f"{_two_digits(milliseconds)} ms"
    return f"{_two_digits(milliseconds / 1000)} s"


def _two_digits(value: float) -> str:
    return f"{float(f'{value:.2g}'):g}"


def _cascades(model: Klann) -> list[SvfControls]:
    """Each channel's controls [S]."""
    controls = model.bank.controls()
    return [SvfControls(*(part[f] for part in controls)) for f in range(len(model.bank.cutoff))]


def _before(model: Klann, index: int) -> str:
    if isinstance(model, ParallelSeriesKlann) and index:
        return model.channel_names()[index - 1]
    if isinstance(model, StackedKlann) and index >= model.lift.last.out_features:
        return f"bank {index // model.lift.last.out_features}"
    return ""


def _contribution(
    model: Klann,
    index: int,
    means: Means,
    takes: Takes,
    context: int,
    outputs: Sequence[Tensor],
    full_db: float,
) -> Contribution:
    still = standing_still(model, [index], means)
    without = [still.play_whole(x) for x, _ in takes]
    without_db = esr_db(without, takes, context)
    change_db = esr_db(without, [(x, output) for (x, _), output in zip(takes, outputs, strict=True)], context)
    return Contribution(without_db, without_db - full_db, change_db)


def _harmonics(model: Klann, takes: Takes, context: int) -> tuple[float, float]:
    """Odd and even ones in dB of a tone with the recordings' RMS, once the model has settled."""
    rate = model.sample_rate
    power = torch.cat([x[context:] for x, _ in takes]).double().square().mean()
    time = torch.arange((SETTLING_SECONDS + 1) * rate, dtype=torch.float64)
    tone = (2 * power).sqrt() * torch.sin(2 * torch.pi * TONE_HZ / rate * time)
    heard = model.play_whole(tone.to(model.bank.cutoff))[-rate:].double()
    lines = torch.fft.rfft(heard * torch.hann_window(rate, dtype=heard.dtype)).abs().square()[::TONE_HZ]
    odd, even = lines[3::2].sum(), lines[2::2].sum()
    return float(decibels(odd / lines[1])), float(decibels(even / lines[1]))

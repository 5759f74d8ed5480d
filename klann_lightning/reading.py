"""What a trained KLANN does, read from inside: curves, filters, and what each channel is good for.

Every number is measured on recordings: shares are of the variance that occurs in them, and a channel's part
in the output is what its absence costs there. A channel is absent where its filter's output stands still at
its mean over the scored samples: the constant that the rest may need stays.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from klann_lightning.dsp.poles import Biquad, Mode, Shape, biquads, level_db, response, shape
from klann_lightning.dsp.svf import SvfControls
from klann_lightning.inside import (
    TINY,
    Heard,
    Parts,
    Takes,
    checked,
    moments,
    played_esr_db,
    shares,
    strongest,
)
from klann_lightning.metrics import decibels
from klann_lightning.models.klann import Klann, ParallelSeriesKlann
from klann_lightning.models.stacked import StackedKlann
from klann_lightning.models.statics import Curve, Statics
from klann_lightning.models.surgery import standing_still

Values = NDArray[np.float64]
GRID_POINTS, GRID_START_HZ = 400, 0.1
IDLE_DB = 0.1  # of ESR
TONE_HZ, SETTLING_SECONDS = 1000, 3


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
    cost_db: float  # by which the ESR is higher where it stands still

    @property
    def time_constant_ms(self) -> float:
        """In which the strongest part of the impulse response falls to 1/e."""
        return self.mode.time_constant_ms

    @property
    def idle(self) -> bool:
        """Whether leaving it out costs less than IDLE_DB."""
        return self.cost_db < IDLE_DB


@dataclass(frozen=True)
class KlannReading:
    """All channels, in the order of `channel_names`."""

    channels: list[ChannelReading]
    esr_db: float
    scored_seconds: float  # of the longest recording
    frequencies_hz: Values
    odd_harmonics_db: float  # over a tone at TONE_HZ as loud as the recordings, its own frequency left out
    even_harmonics_db: float


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
    full_db = played_esr_db(model, takes, context)
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
                level_db(seen),
                np.degrees(np.unwrap(np.angle(seen))),
                mode,
                share,
                float(energies[0] / max(sum(energies), TINY)),
                slow,
                sound,
                heard.within(index, passing, model.sample_rate),
                float(means.leaving[index]),
                float(deviations[index]),
                played_esr_db(standing_still(model, [index], means), takes, context) - full_db,
            )
        )
    odd_db, even_db = _harmonics(model, takes, context)
    scored_seconds = (max(len(x) for x, _ in takes) - context) / model.sample_rate
    return KlannReading(channels, full_db, scored_seconds, frequencies_hz, odd_db, even_db)


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

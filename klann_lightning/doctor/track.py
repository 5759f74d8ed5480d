"""What one file holds, in numbers, and how they are gathered in one pass over it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from klann_lightning.doctor.samples import (
    Block,
    Gap,
    Plateau,
    Resolution,
    Zeros,
    decibels,
    even_step,
    find_gaps,
    lost,
)
from klann_lightning.doctor.spectrum import Cliff, Spectrum

Side = Literal["input", "target"]

WINDOW_SECONDS = 0.01  # of the levels
ACTIVE_DB = -60.0  # below the loudest window there is no sound


@dataclass(frozen=True)
class Track:
    """One file, and the channel of it that carries the signal. Levels are in dB of full scale."""

    path: Path
    sample_rate: int  # Hz
    frames: int
    channels: int
    subtype: str  # as libsndfile names it
    channel: int  # which one carries the signal, from 0; all that follows is about it
    peak: float
    rms: float
    mean: float  # DC offset
    lowest: float
    highest: float
    not_finite: int  # NaN and infinite samples; in everything else here, zeros stand for them
    first_not_finite: int
    effective_bits: int  # up to 24
    half_float: bool  # no value has more than 11 significant bits
    values: int | None  # how many different values there are, where there are few
    value_step: float  # between them where they are evenly spaced; else 0
    tops: tuple["Top", "Top"]  # at the highest and at the lowest value
    leading_zeros: int  # samples
    trailing_zeros: int
    gaps: tuple[Gap, ...]
    level_db: tuple[float, float]  # the 10th and the 95th percentile over 10 ms; -200 is silence
    active_share: float  # of the time, with sound within 60 dB of the loudest 10 ms
    range_db: float  # between the 10th and the 95th percentile of these 10 ms
    cliff: Cliff | None  # where the long-term spectrum ends suddenly
    channel_rms: tuple[float, ...]  # of every channel
    difference: tuple[float, ...]  # RMS of the difference between every channel and the first
    sum: tuple[float, ...]  # the same of the sum

    @property
    def seconds(self) -> float:
        return self.frames / self.sample_rate


@dataclass(frozen=True)
class Top:
    """Runs of equal samples at an extreme value. `drop`: how far their neighbours are from it, on average."""

    value: float
    runs: int
    samples: int  # in all runs
    longest: int
    drop: float


class Channel:
    """Gathers the numbers of one channel, block by block."""

    def __init__(self, sample_rate: int) -> None:
        self.rate = sample_rate
        self.window = window(sample_rate)
        self.frames, self.sum, self.energy = 0, 0.0, 0.0
        self.not_finite, self.first_not_finite = 0, 0
        self.high, self.low = Plateau(), Plateau()
        self.zeros, self.resolution, self.spectrum = Zeros(), Resolution(), Spectrum(sample_rate)
        self.gaps: list[Gap] = []
        self._powers: list[NDArray[np.float64]] = []
        self._tail = np.zeros(0, np.float32)
        self._sought = 0  # gaps that begin before this sample are known

    def feed(self, x: Block, sampled: bool) -> None:
        """`sampled`: whether the block counts for what only some blocks are examined for."""
        fine = np.isfinite(x)
        if not fine.all():
            if not self.not_finite:
                self.first_not_finite = self.frames + int(np.argmin(fine))
            self.not_finite += int(len(x) - np.count_nonzero(fine))
            x = np.where(fine, x, np.float32(0))
        exact = x.astype(np.float64)
        self.sum += float(exact.sum())
        self.energy += float(exact @ exact)
        self.high.feed(x)
        self.low.feed(-x)
        self.zeros.feed(x)
        self.resolution.feed(x, sampled)
        whole = exact[: len(x) // self.window * self.window].reshape(-1, self.window)
        self._powers.append(np.einsum("ij,ij->i", whole, whole) / self.window)
        if sampled and (len(x) >= len(self.spectrum.hz) * 2 or not self.frames):
            self.spectrum.feed(exact)
        self._seek_gaps(x)
        self.frames += len(x)

    def _seek_gaps(self, x: Block) -> None:
        """With the end of the block before, so that none is lost between them."""
        joined = np.concatenate([self._tail, x])
        origin = self.frames - len(self._tail)
        if np.count_nonzero(joined) < len(joined):
            found = [gap._replace(start=gap.start + origin) for gap in find_gaps(joined, self.rate)]
            self.gaps += [gap for gap in found if gap.start >= self._sought]
            if self.gaps:
                self._sought = self.gaps[-1].start + 1
        self._tail = joined[-self.rate // 8 :]

    def finish(self) -> None:
        self.high.finish()
        self.low.finish()
        if not sum(map(len, self._powers)):  # shorter than one window
            self._powers.append(np.array([self.energy / self.frames]))

    @property
    def rms(self) -> float:
        return float(np.sqrt(self.energy / self.frames))

    def tops(self) -> tuple[Top, Top]:
        high, low = (
            Top(top.value, top.runs, top.samples, top.longest, top.drop) for top in (self.high, self.low)
        )
        return high, Top(-low.value, low.runs, low.samples, low.longest, low.drop)

    def level_db(self) -> tuple[float, float]:
        low, high = np.sqrt(np.percentile(np.concatenate(self._powers), [10, 95]))
        return decibels(float(low)), decibels(float(high))

    def active_share(self) -> float:
        return float(np.mean(self._active()[1]))

    def range_db(self) -> float:
        powers, active = self._active()
        if not active.any():
            return 0.0
        low, high = np.percentile(powers[active], [10, 95])
        return float(10 * np.log10(high / low))

    def _active(self) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """The powers of all windows, and in which there is sound."""
        powers = np.concatenate(self._powers)
        return powers, powers > powers.max() * 10 ** (ACTIVE_DB / 10)

    def lost(self) -> tuple[Gap, ...]:
        return lost(self.gaps, self.rms, self.zeros.smallest, self.resolution.step)

    def few_values(self) -> tuple[int | None, float]:
        """How many different values there are, and the step between them."""
        values = self.resolution.values
        return (None, 0.0) if values is None else (len(values), even_step(values))


def window(sample_rate: int) -> int:
    """Samples of a window of the levels."""
    return max(round(WINDOW_SECONDS * sample_rate), 1)

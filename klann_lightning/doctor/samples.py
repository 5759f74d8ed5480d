"""What one channel of a recording is made of, measured block by block in one pass over it."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Block = NDArray[np.float32]

FINEST_BITS = 24  # what float32 resolves, and so as much as is told apart
PLATEAU = 3  # equal samples in a row at the extreme value
MOST_LEVELS = 4096  # different values that are counted
DIGITAL_SILENCE_DB = -200.0  # stands for the level of zeros
GAP_SECONDS = 0.0005, 0.1  # zeros that are shorter are chance, and longer ones a pause
BESIDE_GAP_SECONDS = 0.005  # there must be sound
QUIETEST_BESIDE = 10 ** (-30 / 20)  # of the RMS of all: gaps in quieter sound do not count
FEWEST_STEPS = 30  # of the grid: sound that is quieter has zeros by chance
GATED = 0.01  # of the RMS of all: where no sample is smaller, nor 2 steps, a gate has made the zeros
FADED = 0.3  # of the level beside a gap: where there is less close to it, the sound has ended by itself
JUMP = 3.0  # into or out of a gap, in units of the usual step from sample to sample


class Gap(NamedTuple):
    """Zeros within sound, where samples were lost."""

    start: int
    length: int
    level: float  # RMS of the sound beside it


class Plateau:
    """Runs of PLATEAU or more samples that stand at the highest value of all blocks that were fed.

    `drop` is how far, on average, their neighbours lie below. Where a smooth top is rounded to a grid, they
    are a few steps of the grid below; where it is cut off, as many as the wave rises within a sample.
    """

    def __init__(self) -> None:
        self.value = -math.inf
        self._reset()

    def _reset(self) -> None:
        self.runs, self.samples, self.longest = 0, 0, 0
        self._drops, self._edges, self._open = 0.0, 0, 0

    @property
    def drop(self) -> float:
        return self._drops / self._edges if self._edges else 0.0

    def feed(self, x: Block) -> None:
        highest = float(x.max())
        if highest > self.value:
            self.value = highest
            self._reset()
        if highest < self.value:
            self.finish()
            return
        at = np.flatnonzero(x == x.max())
        breaks = np.flatnonzero(np.diff(at) > 1) + 1
        first, last = at[np.append(0, breaks)], at[np.append(breaks, len(at)) - 1]
        lengths = last - first + 1
        if first[0] == 0:  # goes on from the block before
            lengths[0] += self._open
        else:
            self.finish()
        self._open = int(lengths[-1]) if last[-1] == len(x) - 1 else 0
        self._count(lengths[:-1] if self._open else lengths)
        for beside in (first - 1)[lengths >= PLATEAU], (last + 1)[lengths >= PLATEAU]:
            there = x[beside[(beside >= 0) & (beside < len(x))]]
            self._drops += float((self.value - there.astype(np.float64)).sum())
            self._edges += len(there)

    def finish(self) -> None:
        """Count the run that the last block ended with."""
        self._count(np.array([self._open]))
        self._open = 0

    def _count(self, lengths: NDArray[np.integer]) -> None:
        long = lengths[lengths >= PLATEAU]
        self.runs += len(long)
        self.samples += int(long.sum())
        self.longest = max(self.longest, int(long.max(initial=0)))


class Zeros:
    """With how many exact zeros a recording begins and ends, and the least that is none."""

    def __init__(self) -> None:
        self.frames = 0
        self.smallest = math.inf  # magnitude of a sample that is not zero
        self._first, self._last = -1, -1  # samples that are not zero

    @property
    def leading(self) -> int:
        return self.frames if self._first < 0 else self._first

    @property
    def trailing(self) -> int:
        return self.frames - 1 - self._last

    def feed(self, x: Block) -> None:
        sounding = np.flatnonzero(x) + self.frames
        self.frames += len(x)
        if len(sounding) == 0:
            return
        self.smallest = min(self.smallest, float(np.min(np.abs(x), where=x != 0, initial=np.inf)))
        if self._first < 0:
            self._first = int(sounding[0])
        self._last = int(sounding[-1])


class Resolution:
    """How finely the values are told apart."""

    def __init__(self) -> None:
        self._exponent = 0  # all samples so far are multiples of 2**-exponent
        self._peak = 0.0
        self._short = True  # all samples so far have 11 significant bits, as half-precision numbers have
        self._values: Block | None = np.zeros(0, np.float32)

    @property
    def bits(self) -> int:
        """Of the coarsest grid that all samples lie on, from -1 to 1, or to the power of 2 above the peak."""
        head = math.ceil(math.log2(self._peak)) if self._peak > 1 else 0
        return max(1, min(self._exponent + 1 + head, FINEST_BITS))

    @property
    def step(self) -> float:
        """Of that grid."""
        return float(2.0 ** -min(self._exponent, FINEST_BITS))

    @property
    def half_float(self) -> bool:
        """Whether 11 significant bits hold every value, though the grid is finer than that."""
        return self._short and self._peak > 0 and self._peak * 2.0**self._exponent > 2**12

    @property
    def values(self) -> Block | None:
        """The different values, sorted, where there are few."""
        return self._values

    def feed(self, x: Block, count: bool) -> None:
        """Values are counted only where `count` says so."""
        self._peak = max(self._peak, float(np.abs(x).max()))
        if self._exponent < 32:
            self._refine(x.astype(np.float64))
        if self._short:
            self._short = not (x.view(np.uint32) & 0x1FFF).any()
        if count and self._values is not None:
            values = np.union1d(self._values, x)
            self._values = values if len(values) <= MOST_LEVELS else None

    def _refine(self, x: NDArray[np.float64]) -> None:
        scaled = x * 2.0**self._exponent
        while self._exponent < 32 and (scaled != np.rint(scaled)).any():
            self._exponent += 1
            scaled *= 2


def even_step(values: Block) -> float:
    """The distance between neighbouring values where nearly all are alike, 0 where they are not."""
    if len(values) < 4:
        return 0.0
    steps = np.diff(values.astype(np.float64))
    near = steps[steps < 1.5 * np.median(steps)]
    step = float(near.mean())
    off = np.abs(steps / step - np.rint(steps / step))
    return step if np.mean(off < 0.1) > 0.95 and float(steps.min()) > step / 2 else 0.0


def find_gaps(x: Block, sample_rate: int) -> list[Gap]:
    """Short runs of zeros that break off a sound, and into which or out of which it jumps."""
    shortest, longest = (max(round(seconds * sample_rate), 4) for seconds in GAP_SECONDS)
    beside = max(round(BESIDE_GAP_SECONDS * sample_rate), 8)
    close = beside // 5
    sounding = np.flatnonzero(x)
    lengths = np.diff(sounding) - 1
    gaps = []
    for place in np.flatnonzero((lengths >= shortest) & (lengths <= longest)):
        start, end = int(sounding[place]) + 1, int(sounding[place + 1])
        if start < beside or end + beside > len(x):
            continue
        sides = np.stack([x[start - beside : start], x[end : end + beside]]).astype(np.float64)
        if np.count_nonzero(sides, axis=1).min() < 0.9 * beside:
            continue
        near = np.stack([sides[0, -close:], sides[1, :close]])
        levels, near_levels = (np.sqrt(np.square(part).mean(axis=1)) for part in (sides, near))
        if (near_levels < FADED * levels).any():
            continue
        level = float(levels.min())
        step = math.sqrt(np.square(np.diff(sides)).mean())
        jump = max(abs(sides[0, -1]), abs(sides[1, 0]))
        if jump > JUMP * step or step > level / 2:  # noise jumps with every sample
            gaps.append(Gap(start, end - start, level))
    return gaps


def lost(gaps: list[Gap], level: float, smallest: float, step: float) -> tuple[Gap, ...]:
    """The gaps that a recorder leaves, and not what a device does or how a test signal is made.

    `level` is the RMS of it all, `smallest` the smallest magnitude that is not 0, `step` that of the grid.
    None where small values never occur, as behind a gate, and where most gaps follow at one distance.
    """
    gaps = [gap for gap in gaps if gap.level > max(level * QUIETEST_BESIDE, FEWEST_STEPS * step)]
    distances = np.diff([gap.start for gap in gaps])
    regular = len(gaps) > 3 and np.mean(distances < distances.min() + 3) > 0.5
    gated = smallest > max(GATED * level, 2 * step)
    return () if regular or gated else tuple(gaps)


def decibels(amplitude: float) -> float:
    """Of a level, where 1 is 0 dB; DIGITAL_SILENCE_DB at least."""
    return max(20 * math.log10(amplitude), DIGITAL_SILENCE_DB) if amplitude > 0 else DIGITAL_SILENCE_DB

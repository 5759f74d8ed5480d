"""The error-to-signal ratio that no model can beat, because nothing in the input tells of it.

From passages that the input repeats, where it does; from the target's noise while the input pauses; from
the steps of the target's numbers. None of these may be larger than the truth: a doubtful one is lowered.
"""

import math
from typing import Literal, NamedTuple

import numpy as np

from klann_lightning.doctor.blocks import Samples, powers
from klann_lightning.doctor.linear import convolved, fitted
from klann_lightning.doctor.repeats import repeat_error

Origin = Literal["repeats", "pauses", "quantisation", "none"]

STEP_SECONDS = 0.01
PAUSE = 1e-4  # of the input's mean power: no pause is louder
WAIT_SECONDS, LONGEST_WAIT = 0.03, 1.5  # after the input has fallen silent, at least and at most
FRAME = 1024  # samples of a spectrum
FEWEST = 4  # frames of pause
STEADY = 0.75  # times the median frame's power: noise has no frames so quiet, a tail that fades has
LEAST = 1e-15  # an ESR: below, figures are rounding
TAPS, AHEAD = 256, 32  # of the filters that take the input's hiss out of the target's; so many look ahead
FADING = 1.3  # times the second half's power: a first half of pauses that has more still rings
GROUP = 8  # frames whose mean spectrum is compared with that of the pauses
VISIBLE = 4.0  # times the pause's noise: quieter bins of music show whether it is there
TENTH = 0.1  # of the visible bins, the lowest: in the others there is music too
TENTH_OF_NOISE = 0.582  # of its mean: what that quantile is of noise alone, chi-square of 2 GROUP degrees
HUMS_HZ = 50.0, 60.0
HUM_SECONDS = 0.2  # of a pause, which tell these two apart
LEAST_BITS = 8  # of a target's steps that are the recorder's: coarser ones are the device's


class Floor(NamedTuple):
    """What no model can beat."""

    esr: float  # energy ratio; nan where the recording does not tell
    origin: Origin
    hum_hz: float = math.nan  # 50 or 60 where mains hum is most of the noise in pauses, otherwise nan


def floor_of(x: Samples, y: Samples, sample_rate: int, ringing: float, memory: float) -> Floor:
    """Repeats tell all, pauses tell of additive noise, steps only of themselves: the first known counts.

    A pause is looked at once the device has rung out, for `ringing` s, and a repeat once its memory, of which
    a gain's is a part, has ended, for `memory` s; not at all where that is infinite.
    """
    power = float(np.square(y).mean())
    if not power:
        return Floor(math.nan, "none")
    bits = grid_bits(y)
    steps = 4.0 ** (1 - bits) / 12 / power if bits >= LEAST_BITS else math.nan
    noise = _pause_noise(x, y, sample_rate, ringing)
    paused = hum_hz = math.nan
    if noise is not None and noise.spectrum.mean() > LEAST * power:
        paused = _heard_through(y, x, noise.spectrum, FRAME) / power
        hum_hz = _hum(y[slice(*max(noise.pauses, key=lambda run: run[1] - run[0]))], sample_rate)
    repeated = repeat_error(x, y, sample_rate, max(memory, 0.1)) if math.isfinite(memory) else math.nan
    found: list[tuple[float, Origin]] = [(repeated, "repeats"), (paused, "pauses"), (steps, "quantisation")]
    for esr, origin in found:
        if esr > LEAST:  # not nan
            return Floor(esr, origin, hum_hz)
    return Floor(math.nan, "none", hum_hz)


def grid_bits(y: Samples) -> float:
    """The fewest bits, of 4 to 24, on whose grid of 2^(1 - bits) all values lie; nan where on none."""
    values = y[: 1 << 16] * 2.0**23
    if not np.array_equal(values, np.rint(values)):
        return math.nan
    whole = np.rint(y * 2.0**23)
    if not np.array_equal(whole, y * 2.0**23):
        return math.nan
    together = int(np.bitwise_or.reduce(np.abs(whole).astype(np.int64)))
    if not together:
        return math.nan
    spare = (together & -together).bit_length() - 1
    return float(max(4, 24 - spare))


def pauses(x: Samples, sample_rate: int, wait_seconds: float) -> list[tuple[int, int]]:
    """Stretches, sample to sample, in which the input has been silent, or mere hiss.

    For `wait_seconds` before, it has been so too. Silent is what lies 40 dB or more below the mean and within
    9 dB of the quietest.
    """
    size = max(1, round(STEP_SECONDS * sample_rate))
    level = powers(x, size)
    if not level.any():
        return []
    quiet = level <= min(8 * float(np.quantile(level, 0.005)), PAUSE * float(level.mean()))
    wait = math.ceil(wait_seconds / STEP_SECONDS)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], quiet, [False]]).astype(int)))
    runs = edges.reshape(-1, 2)
    return [(int(a + wait) * size, int(b) * size) for a, b in runs if b - a - wait >= 3]


class _Noise(NamedTuple):
    spectrum: Samples  # power, [bins] of FRAME: its mean over them is the noise's power
    pauses: list[tuple[int, int]]  # in which it was heard


def _pause_noise(x: Samples, y: Samples, sample_rate: int, ringing: float) -> _Noise | None:
    """The target's noise in pauses, less what the input's hiss explains.

    A device that still rings is waited for twice as long, and again, until the halves of pauses are alike.
    Of the frames, the quieter half is taken: a note that rings on in one of them must not count as noise.
    """
    wait = max(ringing, WAIT_SECONDS)
    while wait <= LONGEST_WAIT:
        runs = pauses(x, sample_rate, wait)
        rest = _unexplained(x, y, runs)
        frames = [r[n : n + FRAME] for r in rest for n in range(0, r.size - FRAME + 1, FRAME)]
        if len(frames) < FEWEST:
            return None
        halves = [(np.square(r[: r.size // 2]).mean(), np.square(r[r.size // 2 :]).mean()) for r in rest]
        if np.median([first / max(second, 1e-300) for first, second in halves]) < FADING:
            break
        wait *= 2
    else:
        return None
    spectra = _spectra(np.array(frames))
    level = spectra.mean(1)
    low, middle = np.quantile(level, [0.1, 0.5])
    spectrum = spectra[level <= (middle if low > STEADY * middle else 1.1 * low)].mean(0)
    return _Noise(np.asarray(spectrum), runs)


def _unexplained(x: Samples, y: Samples, runs: list[tuple[int, int]]) -> list[Samples]:
    """The target in pauses, less its mean there, and less what filters make of the hiss and of its size.

    Scaled up by the degrees of freedom that these filters take.
    """
    rest = y.copy()
    hiss = [(a, min(b, x.size - AHEAD)) for a, b in runs if a >= TAPS and a < x.size - AHEAD]
    heard = sum(b - a for a, b in hiss)
    spent = 0
    if heard > 32 * TAPS and any(x[a:b].any() for a, b in hiss):
        for source in (x, np.abs(x)):
            taps = fitted(source, rest, hiss, TAPS, AHEAD)[0]
            rest -= convolved(source, taps, AHEAD)
            spent += TAPS
    scale = math.sqrt(heard / (heard - spent)) if spent else 1.0
    return [scale * (rest[a:b] - rest[a:b].mean()) for a, b in runs]


def _heard_through(y: Samples, x: Samples, noise: Samples, size: int) -> float:
    """Mean power of the noise while the music plays.

    In groups of eight frames: the bins in which music is hardly louder than the pause's noise show how much
    of that goes on. Where none do, noise may come from before a gain that falls as the level rises, and
    is lowered by as much as that gain.
    """
    whole = y[: y.size // (size * GROUP) * size * GROUP].reshape(-1, GROUP, size)
    if not len(whole):
        return 0.0
    spectra = np.array([_spectra(group).mean(0) for group in whole])
    ratio = spectra / np.maximum(noise, 1e-300)
    visible = ratio < VISIBLE
    share = visible.mean(1)
    lowest = [np.quantile(r[v], TENTH) if v.any() else 0.0 for r, v in zip(ratio, visible, strict=True)]
    there = np.minimum(np.array(lowest) / TENTH_OF_NOISE, 1.0)
    unseen = share < 0.05
    there[unseen] = _lowered(x, y, len(whole), size * GROUP)[unseen]
    return float(there.mean() * noise.mean())


def _lowered(x: Samples, y: Samples, count: int, size: int) -> Samples:
    """Power gain of each stretch over the highest of all that are heard, at most 1. [count]"""
    levels = [powers(signal[: count * size], size) for signal in (x, y)]
    gain = levels[1] / np.maximum(levels[0], 1e-300)
    heard = levels[0] > 1e-6 * levels[0].max(initial=0)
    if not heard.any():
        return np.ones(count)
    return np.asarray(np.minimum(gain / np.maximum(gain[heard].max(), 1e-300), 1.0))


def _spectra(frames: Samples) -> Samples:
    """Power spectra [frames, bins] whose mean over the bins is about the frame's mean square."""
    window = np.hanning(frames.shape[-1])
    power = np.square(np.abs(np.fft.rfft(frames * window)))
    return np.asarray(power / np.square(window).sum())


def _hum(x: Samples, sample_rate: int) -> float:
    """The mains frequency, if half of what a pause holds lies at its first five multiples."""
    if x.size < HUM_SECONDS * sample_rate:
        return math.nan
    x = x - x.mean()
    phase = 2j * np.pi * np.arange(x.size) / sample_rate
    shares = {}
    for hz in HUMS_HZ:
        waves = np.exp(np.outer(np.arange(1, 6) * hz, phase))
        shares[hz] = 2 * float(np.square(np.abs(waves @ x)).sum()) / x.size / max(float(x @ x), 1e-300)
    likely = max(shares, key=lambda hz: shares[hz])
    return likely if shares[likely] > 0.5 else math.nan

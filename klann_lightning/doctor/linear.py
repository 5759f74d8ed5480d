"""How much of a device is linear: the best gain, the best short filter, the best long one.

Every filter is judged on samples it was not fitted to, so that noise and distortion are not taken for it.
"""

import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.ndimage import uniform_filter1d

from klann_lightning.doctor.blocks import Samples, Signal

BEFORE, AFTER = 64, 2048  # taps before and from zero
PARTS = 8  # contiguous; every second one is left out of a fit
LONGEST = 1 << 19  # samples that the short filter is fitted to
RIDGES = (1e-9, 1e-4)  # of the input's power, added to its spectrum
LONG_HZ = 11025.0  # rate at which long filters are fitted: rooms and echoes hardly differ above
LONG_SECONDS = 1.25  # more taps than seconds of music can tell apart make a worse filter
LONG_STEPS = 32  # of conjugate gradients; stopping early is what regularises
LONG_RIDGE = 1e-3  # of the preconditioner's mean
LEVEL_SECONDS = 0.3


class ShortFilter(NamedTuple):
    """The best filter of 46 ms at 44.1 kHz."""

    esr: float  # energy of what it leaves over the target's, on samples it was not fitted to
    taps: Samples  # [BEFORE + AFTER], from -BEFORE samples on; mean of the fits
    prediction: Samples  # [T], each part by the filter of the other parts


class LongFilter(NamedTuple):
    """The best filter of up to 1.25 s, at a reduced rate."""

    esr: float  # on the last third of the recording, having been fitted to the others
    esr_short: float  # there and at that rate, of the short filter
    taps: Samples  # from 0 on
    sample_rate: float


def esr_best_gain(x: Signal, y: Signal) -> float:
    """Energy that the best single gain, of either sign, leaves over the target's. nan where that is silent.

    min_g |y - g x|^2 / |y|^2 = 1 - (x.y)^2 / (x.x y.y)
    """
    source, target = np.asarray(x, np.float64), np.asarray(y, np.float64)
    energy = float(target @ target)
    if not energy:
        return math.nan
    own = float(source @ source)
    gain = float(source @ target) / own if own else 0.0
    error = target - gain * source  # not by the formula, which cancels at -160 dB
    return float(error @ error) / energy


def short_filter(x: Signal, y: Signal, ahead: int = BEFORE, after: int = AFTER) -> ShortFilter:
    """Least squares over 2112 taps, or `ahead` and `after`: fitted to one half, tried on the other, and back.

    The halves are the even and the odd of eight parts.

    Normal equations of the covariance method, exact at the edges of the parts, and a ridge; of two ridges
    the one counts that errs less. A gain is a filter too: the result is never worse than the best gain.
    Of recordings of more than 2**19 samples, so many in the middle are fitted, and all are tried. 0.7 s,
    120 MiB.
    """
    source, target = np.asarray(x, np.float64), np.asarray(y, np.float64)
    size = min(ahead + after, max(source.size // 16, 1))
    before = min(ahead, size // 8)
    start = max(0, (source.size - LONGEST) // 2)
    taken = slice(start, start + min(LONGEST, source.size))
    edges = np.linspace(size, taken.stop - taken.start - before, PARTS + 1).astype(int)
    parts = list(pairwise(edges.tolist()))
    tried: list[ShortFilter] = []
    fits = [fitted(source[taken], target[taken], parts[fold::2], size, before) for fold in (0, 1)]
    for even, odd in zip(*fits, strict=True):
        outputs = [convolved(source, taps, before) for taps in (odd, even)]  # the even parts hear the odd's
        prediction = outputs[0]
        for a, b in parts[1::2]:
            prediction[start + a : start + b] = outputs[1][start + a : start + b]
        scored = slice(size, source.size - before)
        error, wanted = target[scored] - prediction[scored], target[scored]
        energy = float(wanted @ wanted)
        esr = float(error @ error) / energy if energy else math.nan
        tried.append(ShortFilter(esr, (even + odd) / 2, prediction))
    best = min(tried, key=lambda fit: fit.esr)
    gain = esr_best_gain(source, target)
    return best._replace(esr=min(best.esr, gain)) if math.isfinite(gain) else best._replace(esr=math.nan)


def convolved(x: Samples, taps: Samples, before: int = 0) -> Samples:
    """x through a filter whose first `before` taps look ahead. [T] -> [T], silence around."""
    size = next_fast_len(x.size + taps.size, real=True)
    full = irfft(rfft(x, size) * rfft(taps, size), size)
    return np.asarray(full[before : before + x.size], np.float64)


def fitted(x: Samples, y: Samples, parts: list[tuple[int, int]], size: int, before: int) -> list[Samples]:
    """Filters [size] that are fitted to the samples of these parts, one for each ridge.

    No part may begin before sample `size`.
    """
    z = np.pad(x, (0, before))[before:]  # ahead: column k of the system is z[n - k]
    gram, wanted = np.zeros((size, size)), np.zeros(size)
    ends = []
    for a, b in parts:
        past = z[a - size : b]  # a >= size
        length = next_fast_len(past.size + size, real=True)
        spectrum = rfft(past, length).conj()
        for signal, into in ((z[a:b], gram[0]), (y[a:b], wanted)):
            into += irfft(rfft(np.pad(signal, (size, 0)), length) * spectrum, length)[:size]
        ends += [z[a - size : a][::-1], 1j * z[b - size : b][::-1]]
    edge = np.array(ends)
    # G[i+1, j+1] - G[i, j] = what comes in at a part's start less what goes out at its end; (1j)^2 = -1
    for i in range(size - 1):
        gram[i + 1, i + 1 :] = gram[i, i:-1] + (edge[:, i] @ edge[:, i:-1]).real
    power = float(gram.diagonal().mean())
    if not power:
        return [np.zeros(size) for _ in RIDGES]
    found = []
    for ridge in RIDGES:
        system = gram.copy()
        system[np.diag_indices(size)] += ridge * power
        try:
            factor = cho_factor(system, overwrite_a=True, check_finite=False)
        except LinAlgError:  # an input of a few sines
            found.append(np.zeros(size))
        else:
            found.append(cho_solve(factor, wanted, check_finite=False))
    return found


def long_filter(x: Samples, y: Samples, short: ShortFilter, sample_rate: float) -> LongFilter:
    """Conjugate gradients for what the short filter leaves: up to 1.25 s of taps, at about 11 kHz.

    The preconditioner divides by the input's spectrum, smoothed as finely as the taps resolve it. Errors
    weigh the less the louder the target is around them, over 0.3 s, which makes quiet passages count as much
    as loud ones and converges sooner. The last third, on which the filter is tried, is left out. The step at
    which it errs least there is taken; so the short filter is never beaten by chance alone.
    """
    step = max(1, round(sample_rate / LONG_HZ))
    source, target, left_over = (decimated(signal, step) for signal in (x, y, y - short.prediction))
    rate = sample_rate / step
    size = max(1, min(round(LONG_SECONDS * rate), source.size // 4))
    split = source.size * 2 // 3
    level = uniform_filter1d(np.square(target), max(1, round(LEVEL_SECONDS * rate)))
    weights = 1 / (level + 1e-2 * level.mean() + 1e-300)
    weights /= weights.mean()
    weights[split:] = 0
    length = next_fast_len(source.size + size, real=True)
    spectrum = rfft(source, length)
    smooth = _smoothed(np.square(np.abs(rfft(source * np.sqrt(weights), length))), size, length)

    def played(taps: Samples) -> Samples:
        return np.asarray(irfft(rfft(taps, length) * spectrum, length)[: source.size])

    def back(error: Samples) -> Samples:
        return np.asarray(irfft(rfft(error * weights, length) * spectrum.conj(), length)[:size])

    def whitened(taps: Samples) -> Samples:
        return np.asarray(irfft(rfft(taps, length) / smooth, length)[:size])

    energy = float(target[split:] @ target[split:]) or math.inf
    taps, answer = np.zeros(size), np.zeros(source.size)
    least = float(left_over[split:] @ left_over[split:])
    best = LongFilter(least / energy, least / energy, taps, rate)
    misfit = back(left_over)
    course = whitened(misfit)
    slope = float(misfit @ course)
    for _ in range(LONG_STEPS):
        if not slope > 0:
            break
        through = played(course)
        turned = back(through)
        stride = slope / float(course @ turned)
        taps = taps + stride * course
        answer += stride * through
        error = left_over[split:] - answer[split:]
        esr = float(error @ error) / energy
        if esr < best.esr:
            best = best._replace(esr=esr, taps=taps)
        misfit = misfit - stride * turned
        ahead = whitened(misfit)
        slope, before = float(misfit @ ahead), slope
        course = ahead + slope / before * course
    return best


def _smoothed(power: Samples, size: int, length: int) -> Samples:
    """A power spectrum as fine as `size` taps resolve it, and nowhere near zero."""
    triangle = np.maximum(1 - np.arange(length) / size, 0)
    triangle += np.maximum(1 - np.arange(length, 0, -1) / size, 0)
    smooth = np.maximum(rfft(irfft(power, length) * triangle).real, 0)
    return np.asarray(smooth + LONG_RIDGE * smooth.mean() + 1e-300)


def decimated(x: Samples, step: int) -> Samples:
    """Every `step`-th sample of x, low-passed on the FFT grid. [T] -> [T / step]."""
    if step == 1:
        return x
    length = next_fast_len(x.size + 4096, real=True)
    length += -length % (2 * step)
    spectrum = rfft(x, length)[: length // (2 * step) + 1]
    cut = spectrum.size * 9 // 10
    spectrum[cut:] *= np.square(np.cos(np.linspace(0, np.pi / 2, spectrum.size - cut)))
    return np.asarray(irfft(spectrum, length // step)[: -(-x.size // step)] / step)

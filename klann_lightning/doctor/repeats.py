"""Where the input plays the same twice, does the target?"""

import math

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft
from scipy.ndimage import uniform_filter1d

from klann_lightning.doctor.blocks import Samples, powers

STEP_SECONDS = 0.02
SAME = 1e-6  # of the input's power, -60 dB: passages are equal
HEARD = 1e-4  # of the input's mean power
SHORTEST = 0.25  # s, of a lag
LAGS = 12  # that are looked at
LEAST_SECONDS = 0.3  # of equal music


def repeat_error(x: Samples, y: Samples, sample_rate: int, memory_seconds: float) -> float:
    """Half the energy by which the target differs from itself where the input repeats, over its energy.

    Lags are those of the peaks in the input's autocorrelation, its spectrum flattened. A step of 20 ms counts
    where the input has been the same for as long as the device remembers. The least of all lags; nan where
    the input never repeats for 0.3 s beyond that.
    """
    size = max(1, round(STEP_SECONDS * sample_rate))
    wait = math.ceil(memory_seconds / STEP_SECONDS)
    mean = float(np.square(x).mean())
    found = []
    for lag in _lags(x, sample_rate):
        now, then = x[lag:], x[:-lag]
        level, differs = powers(now, size), powers(now - then, size)
        same = differs <= SAME * np.maximum(level, HEARD * mean)
        counted = _held(same, wait) & (level > HEARD * mean)
        if np.count_nonzero(counted) * STEP_SECONDS < LEAST_SECONDS:
            continue
        error = powers(y[lag:] - y[:-lag], size)[counted].sum() / 2
        wanted = (powers(y[lag:], size)[counted].sum() + powers(y[:-lag], size)[counted].sum()) / 2
        if wanted > 0:
            found.append(float(error / wanted))
    return min(found, default=math.nan)


def _held(same: np.ndarray, wait: int) -> np.ndarray:
    """Where something has been so for `wait` steps before, and is so."""
    count, held = 0, np.zeros(same.size, bool)
    for n, value in enumerate(same.tolist()):
        held[n] = value and count >= wait
        count = count + 1 if value else 0
    return held


def _lags(x: Samples, sample_rate: int) -> list[int]:
    """Candidates, the likeliest first."""
    least = round(SHORTEST * sample_rate)
    if x.size < 3 * least or not x.any():
        return []
    size = next_fast_len(2 * x.size, real=True)
    power = np.square(np.abs(rfft(x, size)))
    flat = power / (uniform_filter1d(power, min(4097, power.size)) + 1e-6 * power.mean() + 1e-300)
    likeness = irfft(flat, size)[: x.size - least]
    likeness[:least] = 0
    limit = 8 * float(np.std(likeness[least:]))
    lags: list[int] = []
    for _ in range(LAGS):
        lag = int(np.argmax(likeness))
        if likeness[lag] <= limit:
            break
        lags.append(lag)
        likeness[max(0, lag - 8) : lag + 9] = 0
    return lags

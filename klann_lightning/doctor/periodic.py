"""Whether a device changes by a clock of its own: tremolo, chorus, flanger, phaser, auto-wah."""

from typing import NamedTuple

import numpy as np
from scipy.fft import fft, ifft, next_fast_len, rfft

from klann_lightning.doctor.blocks import Samples

FRAME, HOP = 2048, 256  # samples, at 44.1 kHz
LOW_HZ, HIGH_HZ = 80.0, 3000.0
SHORTEST, LONGEST = 0.08, 5.0  # s, of a period
HEARD = 1e-3  # of a frame's loudest bin
LOUD = 1e-6  # of the recording's
CURVED = 0.3  # of a lag: so far around it, correlation is compared with
LEAST_SECONDS = 5.0  # of a recording: in less, the music's own rhythm cannot be told from a clock


class Period(NamedTuple):
    """After what time a device's response comes back, and how clearly."""

    seconds: float  # nan where there is none to be found
    correlation: float  # of responses one period apart, at most 1
    rise: float  # of that above lags 30 % around it
    clarity: float  # the same in robust standard deviations of other lags

    @property
    def found(self) -> bool:
        """Whether that is more than what rhythmic music does to a compressor or a fuzz."""
        return bool(self.clarity > 13 or (self.correlation > 0.65 and self.rise > 0.6))


NO_PERIOD = Period(float("nan"), 0.0, 0.0, 0.0)


def period_of(x: Samples, y: Samples, sample_rate: int) -> Period:
    """Correlates the device's momentary response with itself: H(t, f) = Y X* / |X|^2, less its mean over t.

    rho(lag) = sum_tf H(t, f) H*(t + lag, f) / mean energy of both, over the places where both are heard. A
    free-running oscillator makes rho come back to nearly 1 at its period, whatever is played. Looks at
    lags up to 5 s and to two fifths of the recording. 0.4 s, 150 MiB for 2**20 samples.
    """
    if x.size < LEAST_SECONDS * sample_rate:
        return NO_PERIOD
    ratio, heard, step = _responses(x, y, sample_rate)
    if not heard.any():
        return NO_PERIOD
    rho = _correlation(ratio, heard)
    seconds = np.arange(rho.size) * step
    taken = (seconds > SHORTEST) & (seconds < min(LONGEST, 0.4 * x.size / sample_rate)) & np.isfinite(rho)
    lags = np.flatnonzero(taken)
    if lags.size < 20:
        return NO_PERIOD
    rises = np.full(rho.size, np.nan)
    for lag in lags:
        reach = max(4, int(CURVED * lag))
        rises[lag] = rho[lag] - np.nanmedian(rho[max(2, lag - reach) : lag + reach])
    best = int(np.nanargmax(rises))
    spread = 1.48 * float(np.nanmedian(np.abs(rises[lags])))
    if rho[best] <= 0:
        return NO_PERIOD
    # multiples of a period come back as well: the first that does nearly as well is the period
    inner = lags[(lags > 0) & (lags < rho.size - 1)]
    peak = (rho[inner] >= rho[inner - 1]) & (rho[inner] >= rho[inner + 1])
    alike = inner[peak & (rho[inner] > 0.8 * rho[best]) & (rises[inner] > 0.3 * rises[best])]
    first = int(alike[0]) if alike.size else best
    rise = float(rises[best])
    return Period(float(seconds[first]), float(rho[best]), rise, rise / max(spread, 1e-6))


def _responses(x: Samples, y: Samples, sample_rate: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Responses [frames, bins], where they are known, and the seconds between frames."""
    scale = max(0, round(np.log2(sample_rate / 44100)))
    size, hop = FRAME << scale, HOP << scale
    bins = slice(int(LOW_HZ * size / sample_rate), int(HIGH_HZ * size / sample_rate))
    spectra = [_spectra(signal, size, hop, bins) for signal in (x, y)]
    power = np.square(np.abs(spectra[0]))
    heard = (power > HEARD * power.max(1, keepdims=True)) & (power > LOUD * power.max(initial=0))
    ratio = np.where(heard, spectra[1] * spectra[0].conj() / np.maximum(power, 1e-30), 0)
    ratio -= ratio.sum(0) / np.maximum(heard.sum(0), 1)
    ratio[~heard] = 0
    size_of = np.abs(ratio)
    limit = 3 * float(np.median(size_of[heard])) if heard.any() else 0.0
    return ratio * np.minimum(1, limit / np.maximum(size_of, 1e-30)), heard, hop / sample_rate


def _spectra(x: Samples, size: int, hop: int, bins: slice) -> np.ndarray:
    frames = np.lib.stride_tricks.sliding_window_view(x.astype(np.float32), size)[::hop]
    window = np.hanning(size).astype(np.float32)
    groups = [rfft(frames[n : n + 256] * window)[:, bins] for n in range(0, len(frames), 256)]
    return np.concatenate(groups)


def _correlation(ratio: np.ndarray, heard: np.ndarray) -> Samples:
    """rho by lag, [frames]; nan where too little is heard twice."""
    frames = len(ratio)
    size = next_fast_len(2 * frames)
    product, energy, count = np.zeros(size), np.zeros(size, complex), np.zeros(size)
    for start in range(0, ratio.shape[1], 32):
        part, seen = ratio[:, start : start + 32], heard[:, start : start + 32].astype(np.float32)
        spectrum, where = fft(part, size, axis=0), fft(seen, size, axis=0)
        strength = fft(np.square(np.abs(part)), size, axis=0)
        product += np.square(np.abs(spectrum)).sum(1)
        energy += (strength * where.conj()).sum(1)
        count += np.square(np.abs(where)).sum(1)
    both = ifft(energy).real
    mean = (both + np.roll(both[::-1], 1)) / 2
    rho = ifft(product).real / np.maximum(mean, 1e-9 * mean[0] + 1e-300)
    rho[ifft(count).real < 2e-3 * count.sum() / size] = np.nan
    return np.asarray(rho[:frames])

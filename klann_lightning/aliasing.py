"""How much of a model's output is aliased: what lies between the harmonics of sines that went through it."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float64]
Model = Callable[[Samples], NDArray[np.floating[Any]]]  # [T] -> [T], from its initial state

LOWEST_HZ, HIGHEST_HZ, SINES = 100.0, 10_000.0, 12
NYQUIST_SHARE = 0.9  # the highest sine of a low sample rate
SETTLE_SECONDS = 0.5
LEAK = 10  # bins, which are 1 Hz wide, on both sides of a harmonic that count as that harmonic
FOLDS = 4  # what is folded more often than that is weak
BIN_SEARCH = 0.1  # a sine may lie this part of its frequency beside the wanted one


class SineSpectrum(NamedTuple):
    """What came out for one sine, in dB re full scale; -inf for what is not there, nan where not finite."""

    frequency_hz: int  # of the sine
    level_db: float  # its RMS
    harmonics_hz: Samples  # [harmonics], the sine's own frequency first
    harmonics_db: Samples  # [harmonics], peaks
    between_hz: Samples  # [bins]
    between_db: Samples  # [bins], peaks: what is no harmonic


class Aliasing(NamedTuple):
    """Energy of all but DC and harmonics, over that of all but DC, in dB; nan where nothing came out."""

    frequencies_hz: Samples  # of the sines, [F]
    aliasing_db: Samples  # of each, [F]
    overall_db: float  # of all together: energies summed first, divided once


def aliasing(
    model: Model, sample_rate: int, level: float, frequencies_hz: Sequence[float] | None = None
) -> Aliasing:
    """Play sines of RMS `level`, 0.5 s to settle and 1 s to measure, and see what lies between the harmonics.

    Without `frequencies_hz` there are twelve, in equal ratios from 100 Hz to 10 kHz, or to 0.9 of a lower
    Nyquist. Each sine is moved to a bin that is coprime with the FFT's length and keeps folded harmonics
    away from the others, see `_clear_bin`. The model is called once a sine, with 1.5 s.

    What comes with a gain or an offset that still drifts stays within 10 Hz of the harmonics and counts as
    theirs (see `_energies`), as does a gain that ripples with the sine. Anything else a model adds counts
    as aliasing: noise, ringing at a frequency of its own, and float32's rounding, which is near -140 dB.

    Raises ValueError for a level that is not positive, a frequency below 50 Hz or not below Nyquist, and a
    model that returns another shape than it is given.
    """
    if frequencies_hz is None:
        highest_hz = min(HIGHEST_HZ, NYQUIST_SHARE * sample_rate / 2)
        frequencies_hz = np.geomspace(LOWEST_HZ, highest_hz, SINES).tolist()
    bins = [_clear_bin(wanted_hz, sample_rate) for wanted_hz in frequencies_hz]
    played = (_played(model, b, sample_rate, level) for b in bins)
    between, total = np.array([_energies(y, b) for y, b in zip(played, bins, strict=True)]).T
    with np.errstate(divide="ignore", invalid="ignore"):
        aliasing_db = 10 * np.log10(between / total)
        overall_db = 10 * np.log10(between.sum() / total.sum())
    return Aliasing(np.array(bins, dtype=np.float64), aliasing_db, float(overall_db))


def sine_spectrum(model: Model, sample_rate: int, level: float, wanted_hz: float) -> SineSpectrum:
    """A sine of RMS `level` after 0.5 s, harmonics apart from what lies between them, as `aliasing` has it.

    The frequency is moved to a bin that keeps them apart; raises ValueError as `aliasing` does.
    """
    b = _clear_bin(wanted_hz, sample_rate)
    y = _played(model, b, sample_rate, level)
    spectrum = _spectrum(y if np.isfinite(y).all() else np.full_like(y, np.nan))
    k = np.arange(spectrum.size)
    between = np.minimum(k % b, -k % b) > LEAK
    orders = np.arange(1, spectrum.size // b + 1)
    peaks = [np.abs(spectrum[max(0, m * b - LEAK) : m * b + LEAK + 1]).max() for m in orders]
    full_scale = 2 / _window(sample_rate).sum()  # of a sine with an amplitude of 1
    with np.errstate(divide="ignore"):
        harmonics_db = 20 * np.log10(full_scale * np.array(peaks))
        between_db = 20 * np.log10(full_scale * np.abs(spectrum[between]))
    level_db = 20 * math.log10(level)
    return SineSpectrum(
        b, level_db, (orders * b).astype(np.float64), harmonics_db, k[between].astype(np.float64), between_db
    )


def _played(model: Model, hz: int, sample_rate: int, level: float) -> Samples:
    """What the model makes of a sine in the second after settling, [sample_rate]."""
    if not level > 0:
        raise ValueError(f"a sine of RMS level {level} measures nothing. Give the level of the recordings.")
    settle = round(SETTLE_SECONDS * sample_rate)
    time_s = np.arange(settle + sample_rate) / sample_rate
    x = level * math.sqrt(2) * np.sin(2 * np.pi * hz * time_s)
    y = np.asarray(model(x), dtype=np.float64)
    if y.shape != x.shape:
        raise ValueError(f"the model made {y.shape} of {x.shape}. Give one that maps [T] to [T].")
    return y[settle:]


def _clear_bin(wanted_hz: float, n_fft: int) -> int:
    """The bin, 1 Hz wide, nearest to `wanted_hz` where aliases and harmonics stay apart.

    Harmonic m of bin b, folded j times, lands |m b - j n_fft| from DC, so its distance from the harmonics
    is that of j n_fft from a multiple of b. None is 0 below j = b where b and n_fft are coprime; the first
    few are to be beyond what counts as a harmonic, with the 3 bins that the window spreads an alias over.
    """
    if not 5 * LEAK <= wanted_hz < n_fft / 2:
        raise ValueError(
            f"cannot measure with a sine of {wanted_hz:g} Hz at {n_fft} Hz. "
            f"Choose {5 * LEAK} Hz or more, and less than half the sample rate."
        )

    def badness(b: int) -> tuple[bool, int, float]:
        distance = min(min(j * n_fft % b, -j * n_fft % b) for j in range(1, FOLDS + 1))
        return math.gcd(b, n_fft) > 1, -min(distance, LEAK + 4), abs(b - wanted_hz)

    lowest, highest = math.ceil((1 - BIN_SEARCH) * wanted_hz), math.floor((1 + BIN_SEARCH) * wanted_hz)
    return min(range(lowest, min(highest, (n_fft - 1) // 2) + 1), key=badness)


def _energies(y: Samples, b: int) -> tuple[float, float]:
    """Energies of all that is no harmonic of bin `b`, and of all but DC: [n_fft] -> two numbers.

    The window sin^6 has four terms: a steady sine on a bin fills that and three bins on both sides, the
    others not at all. Five of its derivatives vanish at its ends, so a harmonic that grows or fades slowly
    leaks with the 7th power of the distance: a gain that is 60 % off at first, with a time constant of 1 s,
    leaks -140 dB in all, where a rectangular window would leak -34 dB (test_a_drifting_gain).
    """
    if not np.isfinite(y).all():
        return math.nan, math.nan
    spectrum = _spectrum(y)
    energy = np.square(spectrum.real) + np.square(spectrum.imag)
    k = np.arange(energy.size)
    between = np.minimum(k % b, -k % b) > LEAK
    return float(energy[between].sum()), float(energy[k > LEAK].sum())


def _window(n_fft: int) -> Samples:
    return np.asarray(np.sin(np.pi * np.arange(n_fft) / n_fft) ** 6, dtype=np.float64)


def _spectrum(y: Samples) -> NDArray[np.complex128]:
    return np.asarray(np.fft.rfft(y * _window(y.size)), dtype=np.complex128)

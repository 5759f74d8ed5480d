"""Ordinary effects, simulated for tests: [T] -> [T], causal, deterministic, with no delay of their own.

`EFFECTS` names them, `CLASS_OF` says what each is. They share no code with the models nor with the doctor.
"No delay" is meant for what a listener would align: an echo or a reverb passes the dry signal on at once, and
a filter has the group delay of its own poles and no more.
"""

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, fftconvolve, lfilter, sosfilt

from klann_lightning.data.devices import fuzz, optical_compressor

Samples = NDArray[np.float64]
Effect = Callable[[Samples, int], Samples]
Class = Literal["clean", "linear", "light", "heavy", "dynamics", "modulation", "reverb"]

CONTROL = 16  # samples between two values of a compressor's gain
SWEEP = 64  # samples between two settings of a filter that moves


def gain(x: Samples, rate: int) -> Samples:
    return 0.5 * x


def lowpass(x: Samples, rate: int) -> Samples:
    return _butter(x, 2, 3000, "low", rate)


def lowpass4(x: Samples, rate: int) -> Samples:
    return _butter(x, 4, 1200, "low", rate)


def highpass(x: Samples, rate: int) -> Samples:
    return _butter(x, 2, 300, "high", rate)


def bandpass(x: Samples, rate: int) -> Samples:
    return _butter(x, 1, [500, 2500], "band", rate)


def eq(x: Samples, rate: int) -> Samples:
    """Three bells and a shelf."""
    bells = _bells(x, [(100, 1, 6), (800, 2, -9), (3000, 1, 8)], rate)
    return _high_shelf(bells, 6000, -9, rate)


def cabinet(x: Samples, rate: int) -> Samples:
    """A guitar loudspeaker: resonant between 80 Hz and a steep end at 5 kHz."""
    bells = [(120, 1.5, 5), (400, 1, -4), (2500, 2, 7), (3800, 4, -6)]
    return _butter(_bells(_butter(x, 2, 80, "high", rate), bells, rate), 4, 5000, "low", rate)


def tape(x: Samples, rate: int) -> Samples:
    """Saturation between a treble boost and its inverse; hardly more than linear at low level."""
    hot = np.tanh(2 * _high_shelf(x, 2000, 6, rate))
    return _high_shelf(_butter(hot, 2, 14000, "low", rate), 2000, -6, rate)


def overdrive(x: Samples, rate: int) -> Samples:
    """Clipped mids beside the dry signal, as in a Tube Screamer."""
    clipped = np.tanh(20 * _butter(x, 1, 720, "high", rate))
    return 0.5 * _butter(clipped + x, 1, 3615, "low", rate)


def softclip(x: Samples, rate: int) -> Samples:
    return np.tanh(4 * x)


def hardclip(x: Samples, rate: int) -> Samples:
    return np.clip(10 * x, -0.5, 0.5)


def diode(x: Samples, rate: int) -> Samples:
    """Each half-wave clips at a height of its own."""
    v = 8 * x
    clipped = np.where(v > 0, 1 - np.exp(-np.maximum(v, 0)), 0.3 * np.tanh(v / 0.3))
    return 0.5 * _butter(clipped, 1, 30, "high", rate)


def octave(x: Samples, rate: int) -> Samples:
    """A rectifier: what leaves has hardly a partial in common with what enters."""
    return _butter(np.abs(x) + 0.3 * x, 1, 30, "high", rate)


def crush(x: Samples, rate: int) -> Samples:
    """Steps of 1/16."""
    return np.round(x * 16) / 16


def comp(x: Samples, rate: int) -> Samples:
    """Attack 3 ms, release 120 ms, 3.3 to 1 above -26 dB."""
    level = _follow(x, rate, 0.003, 0.12)
    return 2 * x * np.minimum(1, (np.maximum(level, 1e-9) / 0.05) ** -0.7)


def limiter(x: Samples, rate: int) -> Samples:
    """Attack 0.5 ms, release 50 ms, nothing above -20 dB."""
    return x * np.minimum(1, 0.1 / np.maximum(_follow(x, rate, 0.0005, 0.05), 1e-9))


def gate(x: Samples, rate: int) -> Samples:
    """Expander: silent in pauses, whatever noise the input has there."""
    return x * np.clip(_follow(x, rate, 0.001, 0.05) / 0.02, 0, 1) ** 2


def tremolo(x: Samples, rate: int) -> Samples:
    """5 Hz."""
    return x * (0.6 + 0.4 * _turning(x, rate, 5.0))


def chorus(x: Samples, rate: int) -> Samples:
    return 0.7 * x + 0.5 * _tap(x, rate * (0.012 + 0.004 * _turning(x, rate, 0.8)))


def flanger(x: Samples, rate: int) -> Samples:
    return 0.6 * x + 0.4 * _tap(x, rate * (0.002 + 0.0015 * _turning(x, rate, 0.3)))


def phaser(x: Samples, rate: int) -> Samples:
    """Four all-passes that sweep between 400 and 1600 Hz, beside the dry signal."""
    wet = x
    for _ in range(4):
        wet = _swept(wet, rate, 0.4, 400, _all_pass)
    return 0.5 * (x + wet)


def wah(x: Samples, rate: int) -> Samples:
    """A peak of 18 dB that sweeps between 450 and 1800 Hz."""
    return 0.3 * _swept(x, rate, 0.7, 450, lambda hz, rate: _bell(hz, 3, 18, rate))


def echo(x: Samples, rate: int) -> Samples:
    """Four repeats, 0.31 s apart, each half as loud as the one before."""
    later = round(0.31 * rate)
    y = x.copy()
    for k in range(1, 5):
        if k * later < len(x):
            y[k * later :] += 0.5**k * x[: -k * later]
    return 0.7 * y


def reverb(x: Samples, rate: int) -> Samples:
    """The dry signal and a room that falls by 60 dB in 1.5 s."""
    return 0.7 * x + 0.4 * fftconvolve(x, room(1.5, rate))[: len(x)]


EFFECTS: dict[str, Effect] = {
    "gain": gain,
    "lowpass": lowpass,
    "lowpass4": lowpass4,
    "highpass": highpass,
    "bandpass": bandpass,
    "eq": eq,
    "cabinet": cabinet,
    "tape": tape,
    "overdrive": overdrive,
    "softclip": softclip,
    "hardclip": hardclip,
    "diode": diode,
    "octave": octave,
    "crush": crush,
    "fuzz": fuzz,
    "comp": comp,
    "limiter": limiter,
    "gate": gate,
    "optical": optical_compressor,
    "tremolo": tremolo,
    "chorus": chorus,
    "flanger": flanger,
    "phaser": phaser,
    "wah": wah,
    "echo": echo,
    "reverb": reverb,
}

CLASS_OF: dict[str, Class] = {
    "gain": "clean",
    "lowpass": "linear",
    "lowpass4": "linear",
    "highpass": "linear",
    "bandpass": "linear",
    "eq": "linear",
    "cabinet": "linear",
    "tape": "light",
    "overdrive": "heavy",
    "softclip": "light",
    "hardclip": "heavy",
    "diode": "heavy",
    "octave": "heavy",
    "crush": "light",
    "fuzz": "heavy",
    "comp": "dynamics",
    "limiter": "dynamics",
    "gate": "dynamics",
    "optical": "dynamics",
    "tremolo": "modulation",
    "chorus": "modulation",
    "flanger": "modulation",
    "phaser": "modulation",
    "wah": "modulation",
    "echo": "reverb",
    "reverb": "reverb",
}


def of_class(*classes: Class) -> list[str]:
    """The names of the effects of these classes, in order."""
    return [name for name in EFFECTS if CLASS_OF[name] in classes]


def room(t60: float, rate: int, gap: float = 0.02, seed: int = 1) -> Samples:
    """An impulse response of noise that falls by 60 dB in `t60` s, `gap` s after the dry signal. Energy 1."""
    samples = int(t60 * rate)
    noise = np.random.default_rng(seed).standard_normal(samples) * 10 ** (-3 * np.arange(samples) / samples)
    noise = lfilter([0.4], [1, -0.6], noise)
    return np.concatenate([np.zeros(round(gap * rate)), noise / np.sqrt(np.square(noise).sum())])


def delayed(x: Samples, delay: float) -> Samples:
    """x later by `delay` samples, or earlier where that is negative; fractions are band-limited. [T] -> [T].

    Zeros come in where nothing is known. The fraction is turned on a padded FFT, so it is exact up to what
    rings across the ends.
    """
    whole = math.floor(delay)
    if delay != whole:
        size = 1 << (len(x) + 4096).bit_length()
        turn = np.exp(-2j * np.pi * np.fft.rfftfreq(size) * (delay - whole))
        x = np.fft.irfft(np.fft.rfft(x, size) * turn, size)[: len(x)]
    zeros = np.zeros(min(abs(whole), len(x)))
    return np.concatenate([zeros, x[: len(x) - len(zeros)]] if whole >= 0 else [x[len(zeros) :], zeros])


def _butter(x: Samples, order: int, hz: float | list[float], kind: str, rate: int) -> Samples:
    return np.asarray(sosfilt(butter(order, hz, kind, fs=rate, output="sos"), x))


def _bell(hz: float, q: float, db: float, rate: int) -> tuple[Samples, Samples]:
    """Peaking biquad (b, a) of the Audio EQ Cookbook (Bristow-Johnson)."""
    a, w = 10 ** (db / 40), 2 * math.pi * hz / rate
    alpha, middle = math.sin(w) / (2 * q), -2 * math.cos(w)
    above, below = [1 + alpha * a, middle, 1 - alpha * a], [1 + alpha / a, middle, 1 - alpha / a]
    return np.array(above) / below[0], np.array(below) / below[0]


def _bells(x: Samples, bells: list[tuple[float, float, float]], rate: int) -> Samples:
    for hz, q, db in bells:
        x = lfilter(*_bell(hz, q, db, rate), x)
    return x


def _high_shelf(x: Samples, hz: float, db: float, rate: int) -> Samples:
    """One pole."""
    g, k = 10 ** (db / 20), math.tan(math.pi * hz / rate)
    return np.asarray(lfilter([g + k, k - g], [1 + k, k - 1], x))


def _follow(x: Samples, rate: int, attack: float, release: float) -> Samples:
    """Peak follower: [T] -> [T]. Answers blocks of 16 samples once they have been played."""
    peaks = np.abs(np.pad(x, (0, -len(x) % CONTROL))).reshape(-1, CONTROL).max(1)
    up, down = (1 - math.exp(-CONTROL / rate / seconds) for seconds in (attack, release))
    held, course = 0.0, []
    for peak in peaks.tolist():
        held += (up if peak > held else down) * (peak - held)
        course.append(held)
    return np.interp(np.arange(len(x)), CONTROL * np.arange(1, len(course) + 1), course)


def _turning(x: Samples, rate: int, hz: float) -> Samples:
    """A low-frequency oscillator, as long as x."""
    return np.asarray(np.sin(2 * np.pi * hz * np.arange(len(x)) / rate))


def _tap(x: Samples, delays: Samples) -> Samples:
    """x as it was `delays` samples ago, interpolated linearly."""
    now = np.arange(len(x))
    return np.interp(now - delays, now, x, left=0)


def _all_pass(hz: float, rate: int) -> tuple[Samples, Samples]:
    """One pole (b, a)."""
    k = math.tan(math.pi * hz / rate)
    c = (k - 1) / (k + 1)
    return np.array([c, 1.0]), np.array([1.0, c])


def _swept(
    x: Samples, rate: int, lfo_hz: float, low_hz: float, of: Callable[[float, int], tuple[Samples, Samples]]
) -> Samples:
    """A filter whose frequency goes from `low_hz` two octaves up and back, lfo_hz times a second."""
    hz = low_hz * 4 ** (0.5 + 0.5 * _turning(x[::SWEEP], rate, lfo_hz * SWEEP))
    out, state = np.empty(len(x)), None
    for start, now in zip(range(0, len(x), SWEEP), hz.tolist(), strict=True):
        b, a = of(now, rate)
        state = np.zeros(len(b) - 1) if state is None else state
        out[start : start + SWEEP], state = lfilter(b, a, x[start : start + SWEEP], zi=state)
    return out

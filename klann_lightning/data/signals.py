"""Dry test signals: a varied guitar, bass and percussion performance, drawn from a seed.

The same seed gives the same samples on every machine. Three things see to that: all random numbers are
uniform draws from PCG64, the simplest that NumPy makes of a bit stream it keeps fixed; all arithmetic is
float64; and the result is rounded to 24 bits, see `round_to_24_bit` for how far that reaches.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from klann_lightning.data.lowpass import low_pass
from klann_lightning.errors import ConfigError

Samples = NDArray[np.float64]  # mono audio, shape [T]
Player = Callable[[np.random.Generator, float, int], Samples]  # draws, seconds, sample rate

PASSAGE_SECONDS = 5.0  # the level changes this often
PEAK = 0.9  # of a passage at 0 dB
LEVEL_RANGE_DB = 30.0  # passages peak between PEAK and this much below it
LOWEST_RATE_HZ = 8000  # below it, too little of a string's sound fits under Nyquist

_REST_SECONDS = 0.85  # of each passage; the strings' fading takes some of it, about 15 % remains silent
_BURST_SECONDS = 0.5  # of each passage
_MAJOR, _MINOR = (0, 7, 12, 16, 19, 24), (0, 7, 12, 15, 19, 24)  # open chords, in semitones


def dry_signal(seconds: float, sample_rate: int, seed: int) -> Samples:
    """Play `seconds` of notes, chords, bass, noise bursts and rests. Returns [T], multiples of 2**-23.

    Every 5 s a new passage begins. Its peak is 0.9 * 10**(level_db / 20); of every four passages,
    one level lies in each quarter of -30..0 dB, so 20 s are enough to have loud and quiet ones.
    """
    if not seconds * sample_rate >= 1:
        raise ConfigError(
            f"a signal of {seconds} s at {sample_rate} Hz holds no sample. Ask for more seconds."
        )
    if sample_rate < LOWEST_RATE_HZ:
        raise ConfigError(f"sample rate {sample_rate} Hz is too low: use {LOWEST_RATE_HZ} Hz or more.")
    rng = np.random.Generator(np.random.PCG64(seed))
    samples = round(seconds * sample_rate)
    passages: list[Samples] = []
    while sum(map(len, passages)) < samples:
        for quarter in _shuffled(range(4), rng):
            level_db = -LEVEL_RANGE_DB * (quarter + rng.random()) / 4
            passage = _play_passage(rng, sample_rate)
            passages.append(passage * (PEAK * 10 ** (level_db / 20) / np.abs(passage).max()))
    return round_to_24_bit(np.concatenate(passages)[:samples])


def round_to_24_bit(x: Samples) -> Samples:
    """Round to multiples of 2**-23, the steps of 24-bit audio. [T] -> [T].

    Mathematics libraries differ in the last bit of a float64 (about 1e-16), from one processor to the next.
    The steps here are 1.2e-7, so such a difference is lost, unless a value happens to lie that close to the
    middle of two steps: about one sample in 1e9. float32 holds every rounded value below 1 exactly.
    """
    return np.round(x * 2.0**23) / 2.0**23


def _play_passage(rng: np.random.Generator, sample_rate: int) -> Samples:
    """Play one passage, at no particular level. The strings are damped at its end. Returns [T]."""
    passage = np.zeros(round(PASSAGE_SECONDS * sample_rate))
    now = 0.0
    for player, seconds in _plan_passage(rng):
        start = round(now * sample_rate)
        if player is None:
            _damp(passage, start, round(_between(rng, 0.03, 0.45) * seconds * sample_rate))
        else:
            sound = player(rng, seconds, sample_rate)[: len(passage) - start]
            passage[start : start + len(sound)] += sound
        now += seconds
    fade = round(0.02 * sample_rate)
    _damp(passage, len(passage) - fade, fade)
    return passage


def _plan_passage(rng: np.random.Generator) -> list[tuple[Player | None, float]]:
    """Who plays for how many seconds, in playing order; None is a rest. The seconds add up to a passage."""
    plan: list[tuple[Player | None, float]] = []
    split = _between(rng, 0.2, 0.5)
    plan += [(None, split * _REST_SECONDS), (None, (1 - split) * _REST_SECONDS)]
    split = _between(rng, 0.15, 0.5)
    plan += [(_burst, split * _BURST_SECONDS), (_burst, (1 - split) * _BURST_SECONDS)]
    left = PASSAGE_SECONDS - _REST_SECONDS - _BURST_SECONDS
    while left > 0:
        # Three in five are short, so fast runs and long notes both occur in most passages.
        seconds = _between(rng, 0.1, 0.35) if rng.random() < 0.6 else _between(rng, 0.6, 1.6)
        seconds = seconds if left - seconds > 0.1 else left  # no remainder too short for a note
        plan.append(((_note, _note, _chord, _bass, _muted)[int(5 * rng.random())], seconds))
        left -= seconds
    return [plan[i] for i in _shuffled(range(len(plan)), rng)]


def _note(rng: np.random.Generator, seconds: float, sample_rate: int) -> Samples:
    """Play a single note that may ring on under the next. Returns [T]."""
    strength, decay, ring = _between(rng, 0.3, 1), _between(rng, 2, 6), seconds * _between(rng, 1, 2)
    return strength * _pluck(rng, _pitch_hz(rng, 45, 76), ring, decay, sample_rate)


def _bass(rng: np.random.Generator, seconds: float, sample_rate: int) -> Samples:
    """Play a note of a bass guitar, E1 to G2. Returns [T]."""
    strength, decay = _between(rng, 0.5, 1), _between(rng, 2, 6)
    return strength * _pluck(rng, _pitch_hz(rng, 28, 43), seconds, decay, sample_rate)


def _muted(rng: np.random.Generator, seconds: float, sample_rate: int) -> Samples:
    """Play a note with the hand on the string, which dies away about as the next begins. Returns [T]."""
    strength, decay = _between(rng, 0.4, 1), _between(rng, 0.7, 2) * seconds
    return strength * _pluck(rng, _pitch_hz(rng, 40, 60), seconds, decay, sample_rate)


def _chord(rng: np.random.Generator, seconds: float, sample_rate: int) -> Samples:
    """Strum three to six strings. Returns [T]."""
    root_hz = _pitch_hz(rng, 40, 52)
    intervals = (_MAJOR if rng.random() < 0.5 else _MINOR)[: 3 + int(4 * rng.random())]
    strum = round(_between(rng, 0.004, 0.025) * sample_rate)
    decay, strength = _between(rng, 2, 6), _between(rng, 0.2, 0.5)
    chord = np.zeros(round(1.3 * seconds * sample_rate) + strum * len(intervals))
    for string, semitones in enumerate(intervals):
        sound = _pluck(rng, root_hz * 2 ** (semitones / 12), 1.3 * seconds, decay, sample_rate)
        chord[string * strum :][: len(sound)] += strength * sound
    return chord


def _burst(rng: np.random.Generator, seconds: float, sample_rate: int) -> Samples:
    """Play coloured noise, either held or with a drum's decay. Returns [T]."""
    samples = round(seconds * sample_rate)
    noise = low_pass(2 * rng.random(samples) - 1, _between(rng, 1500, 12000), sample_rate)
    fall = 1 - np.arange(samples) / samples
    noise *= fall**2 if rng.random() < 0.5 else 1
    _damp(noise, samples - round(0.005 * sample_rate), round(0.005 * sample_rate))
    return np.asarray(noise * (_between(rng, 0.3, 0.9) / np.abs(noise).max()), dtype=np.float64)


def _pluck(rng: np.random.Generator, hz: float, seconds: float, decay: float, sample_rate: int) -> Samples:
    """Pluck a string of pitch `hz` that falls by 60 dB in `decay` seconds. Peaks at about 1. Returns [T].

    Karplus and Strong's string (Computer Music Journal 7(2), 1983): a wave travels round a loop,
        y[n] = loss * sum_k tap[k] * y[n - delay - k],  k = 0, 1, 2.
    The taps are a low-pass [1 - soft, soft] times a linear interpolator [1 - part, part], which tunes the
    loop: delay + soft + part = sample_rate / hz. A whole turn of the loop is computed at a time.
    """
    samples = round(seconds * sample_rate)
    soft = _between(rng, 0.05, 0.35)
    delay, part = divmod(sample_rate / hz - soft, 1)
    turn = int(delay)
    taps = np.convolve([1 - soft, soft], [1 - part, part])
    string = np.zeros(samples + turn + 2)
    string[: turn + 2] = _pluck_shape(rng, turn, taps, sample_rate)
    taps *= 10 ** (-3 / (hz * decay))
    for start in range(turn + 2, len(string), turn):
        stop = min(start + turn, len(string))
        string[start:stop] = np.convolve(string[start - turn - 2 : stop - turn], taps, "valid")
    note = string[:samples]
    _damp(note, samples - round(0.03 * sample_rate), round(0.03 * sample_rate))
    return note


def _pluck_shape(rng: np.random.Generator, turn: int, taps: Samples, sample_rate: int) -> Samples:
    """The string at the moment it is let go: a triangle, and some noise from the pick. Returns [turn + 2]."""
    place, pick = np.arange(turn + 2) / (turn + 2), _between(rng, 0.08, 0.5)
    noise = low_pass(2 * rng.random(turn + 2) - 1, 6000, sample_rate)
    shape = np.minimum(place / pick, (1 - place) / (1 - pick)) + _between(rng, 0.1, 0.6) * noise
    # The loop keeps a mean as long as the note, so there must be none. The loop is turn + soft + part samples
    # long, not turn + 2: the oldest two samples count for what the taps still take from them.
    weights = np.concatenate([[taps[2], taps[1] + taps[2]], np.ones(turn)])
    shape -= np.average(shape, weights=weights)
    return np.asarray(shape / np.abs(shape).max(), dtype=np.float64)


def _damp(x: Samples, start: int, fade: int) -> None:
    """Fade `x` out in place over `fade` samples from `start`; zeros follow."""
    start, stop = max(start, 0), min(start + fade, len(x))
    x[start:stop] *= (1 - np.arange(stop - start) / max(fade, 1)) ** 2
    x[stop:] = 0


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    """A number from `low` up to but not including `high`."""
    return low + (high - low) * rng.random()


def _pitch_hz(rng: np.random.Generator, low: int, high: int) -> float:
    """A MIDI note from `low` up to but not including `high`, in Hz."""
    return float(440 * 2 ** ((low + int((high - low) * rng.random()) - 69) / 12))


def _shuffled(items: range, rng: np.random.Generator) -> list[int]:
    """The items in random order, by uniform draws alone."""
    return [items[i] for i in np.argsort(rng.random(len(items)))]

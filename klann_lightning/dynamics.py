"""How a gain follows the level: level in against level out, and what happens when the level steps.

Levels are RMS in dB, where a full-scale sine has -3 dB, as in fidelity.py. A gain is output over input in dB.
Functions that take a `model` call it with sines [T], from its initial state; the others look at recordings.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from klann_lightning.fidelity import Samples, Signal

Model = Callable[[Samples], NDArray[np.floating[Any]]]

WINDOW_SECONDS = 0.05  # of a level in a recording
BIN_DB = 2.0
FEWEST = 5  # windows that a median is made of
SILENCE_DB = -80.0

PROBE_HZ = 1000.0
STAIR_DB, STAIR_SECONDS = 3.0, 2.0  # how high, and how long, are the steps of the static curve
REST_SECONDS, HOLD_SECONDS = 3.0, 8.0  # before the step up; after it, and after the step down
DEPTHS_DB = (1.0, 3.0, 6.0)  # of gain reduction that the steps lead into
FIRST_SECONDS = 0.001  # after a step: before, the window that measures the gain still hears what was there
POINTS = 300  # of a step response, at equal ratios of time
SMALLEST_DB = 0.3  # change of gain that a time constant is made of
SMALLEST_SHARE = 0.1  # of that change that is a part of its own
SILENT_GAIN = 1e-6  # of a model from which nothing comes
APART = 1.5  # ratio of two time constants: of nearer ones the shares grow without limit and cancel
LONGEST = 2.0  # times what was seen: slower decays cannot be told from a drift

RISE_DB, RISE_SECONDS = 12.0, 0.05  # of an onset in a recording, and for how long before it was quiet
GAIN_SECONDS, SEEN_SECONDS = 0.005, 0.4
FEWEST_ONSETS = 3


class LevelCurve(NamedTuple):
    """Windows of a recording, and the median of the output over the input's level."""

    input_db: Samples  # [windows]
    output_db: Samples  # [windows]
    middles_db: Samples  # [bins], of the input
    medians_db: Samples  # [bins], of the output


class TimeConstant(NamedTuple):
    """One exponential of a change."""

    seconds: float
    share_db: float  # of the change, signed: what is left to go at its beginning


class StepResponse(NamedTuple):
    """Gain of a sine after its level has stepped up, and after it has stepped back down."""

    low_db: float
    high_db: float
    seconds: Samples  # since the step, [points], at equal ratios
    up_db: Samples  # gain, [points]
    down_db: Samples
    attack: list[TimeConstant]  # fastest first
    release: list[TimeConstant]

    @property
    def depth_db(self) -> float:
        """By how much the gain has fallen at the high level."""
        return float(self.down_db[-1] - self.up_db[-1])


class Onsets(NamedTuple):
    """Mean gain around the onsets of a recording, less that of the first milliseconds."""

    seconds: Samples  # since the onset, [windows]
    gains_db: dict[str, Samples]  # of each output, [windows]
    places: int  # so many onsets


def level_curve(source: Signal, output: Signal, sample_rate: int) -> LevelCurve:
    """Levels of both in windows of 50 ms: [T], [T]. Windows with silence on either side are left out."""
    size = round(WINDOW_SECONDS * sample_rate)
    levels = [_levels(x, size) for x in (source, output)]
    heard = (levels[0] > SILENCE_DB) & (levels[1] > SILENCE_DB)
    ins, outs = levels[0][heard], levels[1][heard]
    bins = np.round(ins / BIN_DB)
    places = [place for place in np.unique(bins) if np.count_nonzero(bins == place) >= FEWEST]
    medians = [np.median(outs[bins == place]) for place in places]
    return LevelCurve(ins, outs, np.array(places) * BIN_DB, np.array(medians))


def static_curve(model: Model, sample_rate: int, levels_db: Sequence[float]) -> Samples:
    """Gain in dB that a sine of 1 kHz has come to after 2 s at each level, in one go: [levels].

    Levels that rise show a compressor's curve; what takes much longer than 2 s is still under way.
    """
    amplitudes = np.repeat(_amplitudes(levels_db), round(STAIR_SECONDS * sample_rate))
    gain_db = _gain_of_sine(model, amplitudes, sample_rate)
    tenth = round(STAIR_SECONDS * sample_rate / 10)
    stairs = gain_db.reshape(len(levels_db), -1)[:, -2 * tenth : -tenth]  # the last tenth hears the next
    return np.asarray(np.median(stairs, axis=1), dtype=np.float64)


def step_responses(model: Model, sample_rate: int, lowest_db: float, highest_db: float) -> list[StepResponse]:
    """Steps from the lowest level into 1, 3 and 6 dB of gain reduction, as far as the highest level leads.

    The loop of a feedback compressor answers the faster the deeper it compresses; weak steps come nearest to
    the time constants of its detector. Empty for a model whose gain does not fall between the two levels.
    """
    count = 2 + math.ceil((highest_db - lowest_db) / STAIR_DB)
    levels_db = np.linspace(lowest_db, highest_db, count)
    gains_db = static_curve(model, sample_rate, levels_db.tolist())
    depths_db = np.maximum.accumulate(gains_db[0] - gains_db)
    responses = []
    for depth_db in DEPTHS_DB:
        if depths_db[-1] >= depth_db:
            high_db = float(np.interp(depth_db, depths_db, levels_db))
            responses.append(step_response(model, sample_rate, lowest_db, high_db))
    return responses


def step_response(model: Model, sample_rate: int, low_db: float, high_db: float) -> StepResponse:
    """3 s at one level, 8 s at the other, 8 s at the first again, as a sine of 1 kHz."""
    rest, hold = round(REST_SECONDS * sample_rate), round(HOLD_SECONDS * sample_rate)
    low, high = _amplitudes([low_db, high_db])
    gain_db = _gain_of_sine(model, np.repeat([low, high, low], [rest, hold, hold]), sample_rate)
    seconds = np.geomspace(FIRST_SECONDS, HOLD_SECONDS - 2 / PROBE_HZ, POINTS)
    places = (seconds * sample_rate).round().astype(int)
    up_db, down_db = gain_db[rest + places], gain_db[rest + hold + places]
    fits = time_constants(seconds, up_db), time_constants(seconds, down_db)
    return StepResponse(low_db, high_db, seconds, up_db, down_db, *fits)


def time_constants(seconds: Samples, values_db: Samples) -> list[TimeConstant]:
    """The one or two exponentials, beside a constant, that come nearest to a course [points] of time.

        v(t) = c + sum_k a_k exp(-t / s_k)
    Least squares over points at equal ratios of time, so that milliseconds count as much as seconds. Two are
    taken where that halves the error of one, both move a tenth of the change or more, and they are 1.5 times
    apart. Empty where the change is below 0.3 dB, or where it has not come to rest.
    """
    if not np.isfinite(values_db).all() or np.ptp(values_db) < SMALLEST_DB:
        return []
    one, two = (_exponentials(seconds, values_db, starts) for starts in STARTS)
    chosen = one
    if two.error < one.error / 2:
        fast, slow = two.parts
        smaller = min(abs(fast.share_db), abs(slow.share_db))
        if smaller > SMALLEST_SHARE * np.ptp(values_db) and slow.seconds > APART * fast.seconds:
            chosen = two
    return [part for part in chosen.parts if part.seconds < LONGEST * seconds[-1]]


class _Fit(NamedTuple):
    parts: list[TimeConstant]
    error: float


STARTS = (  # in seconds, of one exponential and of two
    [(0.003,), (0.03,), (0.3,), (3.0,)],
    [(0.003, 0.03), (0.003, 1.0), (0.03, 0.3), (0.03, 2.0), (0.3, 3.0)],
)


def _exponentials(seconds: Samples, values: Samples, starts: Sequence[tuple[float, ...]]) -> _Fit:
    """Variable projection (Golub, Pereyra 1973): for any time constants, the best shares are linear."""

    def shares(logs: Samples) -> tuple[Samples, Samples]:
        columns = [np.ones_like(seconds), *(np.exp(-seconds / math.exp(log)) for log in logs)]
        basis = np.stack(columns, axis=1)
        found = np.linalg.lstsq(basis, values, rcond=None)[0]
        return found, basis @ found - values

    def error(logs: Samples) -> Samples:
        return shares(logs)[1]

    bounds = math.log(seconds[0] / 10), math.log(100 * seconds[-1])
    best = min(
        (least_squares(error, np.log(start), bounds=bounds) for start in starts), key=lambda fit: fit.cost
    )
    found = shares(best.x)[0][1:]
    parts = sorted(TimeConstant(math.exp(log), float(a)) for log, a in zip(best.x, found, strict=True))
    return _Fit(parts, math.sqrt(2 * best.cost / seconds.size))


def onsets(source: Signal, outputs: dict[str, Signal], sample_rate: int) -> Onsets | None:
    """Where a recording [T] rises by 12 dB or more after 50 ms of less: how each output's gain goes on.

    This compares a model's attack with its target's on the recording itself, where no sine could be played
    through the device. None where there are fewer than three such places, 0.4 s apart.
    """
    size = round(GAIN_SECONDS * sample_rate)
    before, seen = round(RISE_SECONDS / GAIN_SECONDS), round(SEEN_SECONDS / GAIN_SECONDS)
    level_db = np.maximum(_levels(source, size), SILENCE_DB)
    gains = {name: _levels(output, size) - level_db for name, output in outputs.items()}
    places: list[int] = []
    for place in range(before, level_db.size - seen):
        risen = level_db[place] - level_db[place - before : place].max() >= RISE_DB
        after = level_db[place : place + seen]
        heard = after.min() > max(SILENCE_DB / 2, after.max() - 30)
        if risen and heard and (not places or place - places[-1] >= seen):
            places.append(place)
    if len(places) < FEWEST_ONSETS:
        return None
    means = {
        name: np.mean([gain[place : place + seen] - gain[place] for place in places], axis=0)
        for name, gain in gains.items()
    }
    return Onsets(GAIN_SECONDS * np.arange(seen, dtype=np.float64), means, len(places))


def _levels(signal: Signal, size: int) -> Samples:
    """RMS in dB of whole windows, [T] -> [T // size]."""
    x = np.asarray(signal, dtype=np.float64)
    powers = np.square(x[: x.size // size * size]).reshape(-1, size).mean(-1)
    return np.asarray(10 * np.log10(np.maximum(powers, 1e-20)), dtype=np.float64)


def _amplitudes(levels_db: Sequence[float]) -> Samples:
    """Peaks of sines with these levels."""
    return np.asarray(math.sqrt(2) * 10 ** (np.array(levels_db) / 20), dtype=np.float64)


def _gain_of_sine(model: Model, amplitudes: Samples, sample_rate: int) -> Samples:
    """Gain at the sine's own frequency, sample by sample, [T]: both demodulated over one period."""
    phase = 2 * np.pi * PROBE_HZ * np.arange(amplitudes.size) / sample_rate
    source = amplitudes * np.sin(phase)
    turned = np.exp(-1j * phase)
    period = np.ones(round(sample_rate / PROBE_HZ))
    played = source, model(source)
    with np.errstate(invalid="ignore"):  # of a model that has diverged
        inside, outside = (
            np.abs(np.convolve(np.asarray(x, dtype=np.float64) * turned, period, "same")) for x in played
        )
    return np.asarray(20 * np.log10(np.maximum(outside / np.maximum(inside, 1e-12), SILENT_GAIN)))

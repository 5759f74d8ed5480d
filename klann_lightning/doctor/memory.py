"""For how long a device remembers: the decay of its filter, the release of its gain."""

import numpy as np

from klann_lightning.doctor.blocks import Samples
from klann_lightning.doctor.gains import Gain
from klann_lightning.doctor.linear import BEFORE, LongFilter, ShortFilter, decimated

REMAINS = 1e-4  # of an impulse response's energy, -40 dB: what follows is no longer counted
STEPS_HZ = 100.0  # of the decay
EXTENDED = 2.0  # times what is seen of a decay: no further is it extended
HIDES = 1.0, 0.1  # of the error of all taps together, and of all energy: less of a decay may be hidden
GRADUAL = 3  # steps of the direct sound
SUDDEN = 0.5  # of a decay in dB, within three steps: it has no slope
ROOM = 0.6  # of what the short filter leaves: a device whose long filter leaves less reverberates
FORGOTTEN = 2.3  # time constants: 90 % of a change of level has been forgotten


def filter_memory(short: ShortFilter, long: LongFilter | None, sample_rate: float) -> float:
    """Seconds until an impulse response has all but 1e-4 of its energy behind it.

    A long filter's taps are counted where there is one. Errors of the estimate are taken to be as large as at
    its end, and are deducted; where they hide the decay before it has come down to -40 dB, it is extended as
    it falls until then.
    """
    causal = short.taps[BEFORE:] if short.taps.size > BEFORE else short.taps
    if long is None:
        return min(_decay(np.square(causal), sample_rate), causal.size / sample_rate)
    step = round(sample_rate / long.sample_rate)
    taps = long.taps.copy()
    direct = step * decimated(causal, step)[: taps.size]
    taps[: direct.size] += direct
    return _decay(np.square(taps), long.sample_rate)


def reverberates(long: LongFilter) -> bool:
    """Whether a long filter leaves far less than the short one."""
    return long.esr < ROOM * long.esr_short


def gain_memory(gain: Gain | None) -> float:
    """Seconds in which nine tenths of a change of level are forgotten: 2.3 releases."""
    return FORGOTTEN * max(gain.release, gain.memory) if gain is not None else 0.0


def _decay(energy: Samples, sample_rate: float) -> float:
    """Seconds until `REMAINS` is left of what these samples hold. [taps]"""
    size = max(1, min(round(sample_rate / STEPS_HZ), energy.size // 32))
    steps = energy[: energy.size // size * size].reshape(-1, size).sum(1)
    noise = float(np.median(steps[-max(1, steps.size // 8) :]))
    clean = np.maximum(steps - noise, 0)
    clean[steps < 3 * noise] = 0
    left = clean[::-1].cumsum()[::-1]
    if not left[0] > 0:
        return 0.0
    hidden = min(HIDES[0] * noise * steps.size / left[0], HIDES[1])
    known = max(REMAINS, float(hidden))  # what stays below is the estimate's error
    under = np.flatnonzero(left <= known * left[0])
    end = int(under[0]) if under.size else left.size
    seconds = end * size / sample_rate
    heights_db = 10 * np.log10(np.maximum(left[: end + 1], 1e-300) / left[0])
    if known <= REMAINS or end < 4 * GRADUAL:
        return seconds
    late = heights_db[GRADUAL:]
    drops = late[:-3] - late[3:]
    if drops.max() > SUDDEN * (late[0] - late[-1]):  # an echo, and then what its estimate errs
        return float(GRADUAL + 3 + int(drops.argmax())) * size / sample_rate
    # Backward integration bends where the error begins: the slope is that of the middle of the decay.
    start, stop = end // 6, end * 2 // 3
    slope = (heights_db[stop] - heights_db[start]) / (stop - start)
    reached = start + (10 * np.log10(REMAINS) - heights_db[start]) / min(slope, -1e-9)
    return float(np.clip(reached * size / sample_rate, seconds, EXTENDED * seconds))

"""Clicks that a recording opens with, for calibration: they tell the delay where the music cannot."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from klann_lightning.doctor.source import Source

Samples = NDArray[np.float64]

OPENING_SECONDS = 10.0
QUIET_SECONDS = 0.02  # before a click
SHORT_SECONDS = 0.01  # within which it is over
QUIET = 0.03  # of its height: what is around it is lower
LEAST = 0.03  # of the opening's peak
NEAR = 8  # samples by which the answers of a device may differ
APART = 64  # samples between delays that are different ones
ENOUGH, MOST = 2, 0.5  # clicks that agree, and which part of all that is


class Clicks(NamedTuple):
    """What the clicks say."""

    delay: int  # samples that the target's clicks begin later
    agreeing: int  # so many of them


def heard_clicks(x: Source, y: Source, reach: int) -> Clicks | None:
    """The delay within `reach` samples by which most clicks are answered, at least two; or None.

    None also where another one answers as many, as beats of a steady time do.
    """
    frames = round(OPENING_SECONDS * x.sample_rate)
    own = onsets(x.read(0, min(frames, x.frames)), x.sample_rate, short=True)
    if len(own) < ENOUGH:
        return None
    late = onsets(y.read(0, min(frames + reach, y.frames)), x.sample_rate, short=False)
    apart = (late[None, :] - own[:, None]).ravel()
    apart = np.sort(apart[np.abs(apart) <= reach])
    if not len(apart):
        return None
    votes = np.searchsorted(apart, apart + NEAR, side="right") - np.arange(len(apart))
    best = int(np.argmax(votes))
    elsewhere = votes[np.abs(apart - apart[best]) > APART].max(initial=0)
    if votes[best] < max(ENOUGH, MOST * len(own)) or votes[best] <= elsewhere:
        return None
    return Clicks(int(np.median(apart[best : best + votes[best]])), int(votes[best]))


def onsets(x: Samples, sample_rate: int, short: bool) -> NDArray[np.intp]:
    """Where sound begins after silence; `short`: and is over at once. [T] -> sample numbers."""
    size, quiet, brief = np.abs(x), round(QUIET_SECONDS * sample_rate), round(SHORT_SECONDS * sample_rate)
    if not size.any():
        return np.zeros(0, np.intp)
    loud = np.flatnonzero(size > LEAST * size.max())
    found = []
    for first in loud[np.diff(loud, prepend=-quiet - 1) > quiet]:
        height = size[first : first + brief].max()
        before = size[max(first - quiet, 0) : max(first - NEAR, 0)]
        after = size[first + brief : first + brief + quiet]
        if before.max(initial=0) > QUIET * height or (short and after.max(initial=0) > QUIET * height):
            continue
        begun = np.flatnonzero(size[first : first + brief] > height / 2)[0]
        found.append(first + begun)
    return np.array(found, np.intp)

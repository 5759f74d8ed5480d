"""How much of a device is a static curve: clippers, rectifiers, fuzzes, between short filters."""

from itertools import pairwise

import numpy as np

from klann_lightning.data.lowpass import low_pass
from klann_lightning.doctor.blocks import BLOCK, HEARD, Samples, powers, typical_error

PIECES = 32  # blocks that are looked at, from all over
WARM = 2048  # samples that are played before each
SPLIT_HZ = 60.0, 500.0  # high-passes before the curve
DULL_HZ = 1500.0  # low-pass before it
TONES_HZ = 4000.0, 800.0, 30.0  # low-passes after it
KNOTS_DB = -44.0, -32.0, -22.0, -12.0, -4.0  # of a piecewise straight curve, below the peak
RIDGES = 1e-6, 1e-4, 1e-2


def static_error(x: Samples, y: Samples, linear: Samples, sample_rate: int) -> float:
    """What curves between short filters typically leave, as `typical_error`; `linear` is a first guess of y.

    The input, two high-passes and a low-pass of it, and the linear guess go through piecewise straight
    curves; the pieces are followed by nothing or one of three one-pole low-passes: 220 columns. Ridge
    regression over 32 blocks, each weighted by its loudness, fitted to every second one and tried on the
    others, and back. It knows a clipper, and is no model of one. 0.5 s.
    """
    sources = [x, *(x - low_pass(x, hz, sample_rate) for hz in SPLIT_HZ)]
    sources += [low_pass(x, DULL_HZ, sample_rate), linear]
    level = powers(y, BLOCK)
    heard = np.flatnonzero(level > HEARD * level.max(initial=0))
    heard = heard[heard * BLOCK > WARM]
    if heard.size < 4:
        return float("nan")
    chosen = heard[np.linspace(0, heard.size - 1, min(PIECES, heard.size)).astype(int)]
    knots = [_knots(source) for source in sources]
    columns = np.empty((_size(knots), chosen.size * BLOCK))
    for k, n in enumerate(chosen):
        pieces = [source[n * BLOCK - WARM : (n + 1) * BLOCK] for source in sources]
        columns[:, k * BLOCK : (k + 1) * BLOCK] = _columns(pieces, knots, sample_rate)
    wanted = np.concatenate([y[n * BLOCK : (n + 1) * BLOCK] for n in chosen])
    weights = 1 / np.sqrt(np.repeat(level[chosen], BLOCK) + 1e-3 * level.mean())
    fold = np.repeat(np.arange(chosen.size) % 2, BLOCK)
    predictions = np.empty((len(RIDGES), wanted.size))
    for left_out in (0, 1):
        rows = fold != left_out
        shown = columns[:, rows]
        shown *= weights[rows]
        gram, right = shown @ shown.T, shown @ (wanted[rows] * weights[rows])
        size = np.sqrt(gram.diagonal()) + 1e-30
        gram /= np.outer(size, size)
        for prediction, ridge in zip(predictions, RIDGES, strict=True):
            found = np.linalg.solve(gram + ridge * np.eye(size.size), right / size) / size
            prediction[~rows] = found @ columns[:, ~rows]
    return min(typical_error(wanted - prediction, wanted, wanted) for prediction in predictions)


def _knots(source: Samples) -> Samples:
    peak = 1.01 * float(np.abs(source).max()) + 1e-12
    inner = peak * 10 ** (np.array(KNOTS_DB) / 20)
    return np.concatenate([[-peak], -inner[::-1], inner, [peak]])


def _size(knots: list[Samples]) -> int:
    return (1 + len(TONES_HZ)) * sum(map(len, knots))  # a curve has a piece fewer than knots, and itself


def _columns(sources: list[Samples], knots: list[Samples], sample_rate: int) -> Samples:
    """[columns, BLOCK]: the warm-up is played and cut off."""
    curves = []
    for source, places in zip(sources, knots, strict=True):
        curves.append(source)
        curves += [np.clip(source - a, 0, b - a) for a, b in pairwise(places.tolist())]
    bank = np.array(curves)
    return np.concatenate([bank, *(low_pass(bank, hz, sample_rate) for hz in TONES_HZ)])[:, WARM:]

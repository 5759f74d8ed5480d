"""Compressors whose detectors are known are recognised by what they made of a recording."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.signal import lfilter

from klann_lightning import detector
from klann_lightning.data import devices
from klann_lightning.data.devices import simulate
from klann_lightning.detector import KINDS, Detector, fit_detector

RATE = 16000
feed_forward = pytest.mark.parametrize(
    ("senses", "attack", "release"), [("power", 0.005, 0.1), ("amplitude", 0.02, 0.3)]
)


def phrases(seconds, seed=0):
    """Noise that sets in at random levels and dies away, [T]."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(round(seconds * RATE))
    place = 0
    while place < x.size:
        length = round(rng.uniform(0.05, 0.6) * RATE)
        time = np.arange(x[place : place + length].size) / RATE
        x[place : place + length] *= 10 ** (rng.uniform(-46, -9) / 20) * np.exp(-time / rng.uniform(0.1, 1))
        place += length
    return np.clip(x, -1, 1)


def compress(x, senses, attack, release):
    """Sample by sample: it senses the power of the last millisecond, or its root, and holds it.

    gain = (1 + held / knee)^-0.35
    """
    size = RATE // 1000
    power = np.maximum(lfilter(np.ones(size) / size, [1], x**2), 0)
    sensed = power if senses == "power" else np.sqrt(power)
    up, down = (1 - math.exp(-1 / (seconds * RATE)) for seconds in (attack, release))
    held, course = 0.0, []
    for now in sensed.tolist():
        held += (up if now > held else down) * (now - held)
        course.append(held)
    return x * (1 + np.array(course) / (0.001 if senses == "power" else 0.03)) ** -0.35


@pytest.fixture(scope="module")
def recording():
    return simulate("compressor", 12, 44100, 0)


@pytest.fixture(scope="module")
def optical(recording):
    return fit_detector(*recording, 44100)


def test_the_simulated_compressor_is_recognised(optical):
    assert (optical.topology, optical.senses) == ("feedback", "power")
    assert optical.fits
    assert optical.explained > 0.99
    assert optical.error_db < 0.1
    assert optical.attack == pytest.approx(devices.ATTACK_SECONDS, rel=0.1)
    assert optical.release == pytest.approx(devices.FAST_RELEASE_SECONDS, rel=0.1)
    assert optical.charge == pytest.approx(devices.MEMORY_CHARGE_SECONDS, rel=0.2)
    shortest, longest = devices.MEMORY_RELEASE_SECONDS
    assert shortest < optical.memory < longest
    assert optical.share == pytest.approx(0.5, abs=0.1), "(fast + slow) / 2"


def test_from_the_outcome_of_a_fit_the_next_comes_to_the_same(recording, optical):
    again = fit_detector(*recording, 44100, like=optical)
    assert again.error_db == pytest.approx(optical.error_db, rel=0.05)
    assert (again.attack, again.release) == pytest.approx((optical.attack, optical.release), rel=0.05)


def test_a_detector_of_one_stage_is_worse(recording, optical):
    one = fit_detector(*recording, 44100, like=replace(optical, charge=None, memory=None))
    assert (one.charge, one.memory, one.share) == (None, None, 0)
    assert one.error_db > 2 * optical.error_db


@pytest.mark.parametrize(("topology", "senses"), KINDS)
def test_like_keeps_the_kind(topology, senses):
    x = phrases(1.5)
    start = Detector(topology, senses, 0.01, 0.1, 1.0, 1.0, 0.5, 0.0, 1.0)
    for like in (start, replace(start, charge=None, memory=None)):
        found = fit_detector(x, compress(x, "power", 0.005, 0.1), RATE, like=like)
        assert (found.topology, found.senses) == (topology, senses)
        assert (found.charge is None, found.memory is None) == (like.charge is None, like.memory is None)


@feed_forward
def test_feed_forward_compressors_are_recognised(senses, attack, release):
    x = phrases(4)
    found = fit_detector(x, compress(x, senses, attack, release), RATE)
    assert (found.topology, found.senses) == ("feedforward", senses)
    assert (found.attack, found.release) == pytest.approx((attack, release), rel=0.15)
    assert found.fits
    assert found.explained > 0.99
    assert found.charge is None, "a second stage explains no more"


@feed_forward
def test_every_other_kind_errs_more(senses, attack, release):
    x = phrases(3, seed=1)
    y = compress(x, senses, attack, release)
    like = Detector("feedforward", senses, attack, release, None, None, 0, 0, 0)
    error_db = fit_detector(x, y, RATE, like=like).error_db
    for topology, other in KINDS:
        if (topology, other) != ("feedforward", senses):
            wrong = fit_detector(x, y, RATE, like=replace(like, topology=topology, senses=other))
            assert wrong.error_db > 1.25 * error_db, (topology, other)


@pytest.mark.parametrize("scale", [0.1, 10.0])
def test_neither_level_nor_gain_of_the_output_matters(scale):
    x = phrases(3)
    y = compress(x, "power", 0.005, 0.1)
    like = Detector("feedforward", "power", 0.01, 0.2, None, None, 0, 0, 0)
    first, *others = (
        fit_detector(a, b, RATE, like=like) for a, b in ((x, y), (x, scale * y), (scale * x, y), (-x, y))
    )
    for other in others:
        assert (other.attack, other.release, other.error_db, other.explained) == pytest.approx(
            (first.attack, first.release, first.error_db, first.explained), rel=1e-3
        )


@pytest.mark.parametrize(
    "device",
    [
        lambda x: x,
        lambda x: -0.3 * x,
        lambda x: (0.5 * x).astype(np.float32),
        lambda x: np.round(0.3 * x * 2**15) / 2**15,
        np.tanh,
        lambda x: np.tanh(5 * x),
    ],
    ids=["wire", "gain", "float32", "16 bit", "weak clipper", "strong clipper"],
)
def test_what_follows_no_level_does_not_fit(device):
    x = phrases(1.5)
    assert not fit_detector(x, device(x), RATE).fits


def test_a_gain_that_stands_still_is_not_explained():
    x = phrases(1.5)
    found = fit_detector(x, 0.5 * x, RATE)
    assert (found.explained, found.error_db) == pytest.approx((0, 0), abs=1e-5)


def test_what_says_nothing_has_no_detector():
    x = phrases(2)
    y = compress(x, "power", 0.005, 0.1)
    like = Detector("feedforward", "power", 0.005, 0.1, None, None, 0, 0, 0)
    assert fit_detector(x, y, RATE, like=like) is not None
    assert fit_detector(x[: RATE - 1], y[: RATE - 1], RATE) is None
    assert fit_detector(x, np.zeros_like(x), RATE) is None
    assert fit_detector(np.zeros_like(x), y, RATE) is None
    assert fit_detector(x, y, RATE, context=x.size - RATE // 20) is None
    for bad in (np.nan, np.inf):
        for place in range(2):
            pair = [x.copy(), y.copy()]
            pair[place][RATE] = bad
            assert fit_detector(*pair, RATE) is None


def test_context_is_played_but_not_looked_at():
    """What the output is there does not matter to a feed-forward detector; what the input is, does."""
    x = phrases(3)
    like = Detector("feedforward", "power", 0.005, 0.1, None, None, 0, 0, 0)
    context, y = RATE // 2, compress(x, "power", 0.005, 0.1)
    other, louder = y.copy(), x.copy()
    other[: context - 64] *= -0.1
    louder[: context - 64] *= 30
    found, same = (fit_detector(x, output, RATE, context, like) for output in (y, other))
    assert (same.attack, same.release, same.error_db) == (found.attack, found.release, found.error_db)
    assert fit_detector(x, other, RATE, 0, like).error_db > 10 * found.error_db
    assert fit_detector(louder, y, RATE, context, like).error_db > 1.1 * found.error_db


def test_of_a_long_recording_its_beginning_is_looked_at(monkeypatch):
    monkeypatch.setattr(detector, "LONGEST_SECONDS", 2.0)
    x = phrases(3)
    like = Detector("feedforward", "power", 0.005, 0.1, None, None, 0, 0, 0)
    y = compress(x, "power", 0.005, 0.1)
    late = np.where(np.arange(x.size) < 2 * RATE, y, np.nan)
    assert fit_detector(x, late, RATE, like=like) == fit_detector(
        x[: 2 * RATE], y[: 2 * RATE], RATE, like=like
    )
    late[2 * RATE - 100] = np.nan
    assert fit_detector(x, late, RATE, like=like) is None


def test_a_kind_that_comes_nearly_as_near_is_named(monkeypatch):
    x = phrases(3)
    y = compress(x, "power", 0.005, 0.1)
    assert fit_detector(x, y, RATE).rival is None
    monkeypatch.setattr(detector, "NEARLY", np.inf)
    found = fit_detector(x, y, RATE)
    assert found.kind == "feedforward, sensing power"
    assert found.rival.kind != found.kind
    assert found.rival.error_db > found.error_db

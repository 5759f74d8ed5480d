"""Gains that are known by calculation are measured: static curves, time constants, steps and onsets."""

import math
from functools import partial

import numpy as np
import pytest

from klann_lightning.data import devices
from klann_lightning.data.devices import optical_compressor
from klann_lightning.dynamics import (
    SILENCE_DB,
    level_curve,
    onsets,
    static_curve,
    step_response,
    step_responses,
    time_constants,
)

RATE = 8000
SLOPE = 30.0  # dB of gain reduction per unit of power
POINTS = np.geomspace(0.001, 8, 300)


def compress(x, times, sample_rate=RATE):
    """Feed-forward: the gain in dB falls with the mean of one detector for each (attack, release), in s.

    Of a sine at 1 kHz, the squares of samples a quarter of a period apart add up to its amplitude's, without
    ripple: the gain's course is made of exponentials with these time constants and no others.
    """
    quarter = sample_rate // 4000
    power = x**2 + np.concatenate([np.zeros(quarter), x[:-quarter]]) ** 2
    reduction_db = np.zeros(x.size)
    for attack, release in times:
        up, down = (1 - math.exp(-1 / (seconds * sample_rate)) for seconds in (attack, release))
        held = 0.0
        for place, now in enumerate(power.tolist()):
            held += (up if now > held else down) * (now - held)
            reduction_db[place] += SLOPE / len(times) * held
    return x * 10 ** (-reduction_db / 20)


def power_of(level_db):
    """Squared amplitude of a sine with this RMS level."""
    return 2 * 10 ** (level_db / 10)


def windows(levels_db):
    """50 ms of 100 Hz at each level, [T]."""
    sine = math.sqrt(2) * np.sin(2 * np.pi * 100 * np.arange(400) / RATE)
    return np.concatenate([10 ** (level_db / 20) * sine for level_db in levels_db])


# Levels of a recording


def test_a_gain_shifts_the_level_curve():
    levels_db = np.random.default_rng(0).uniform(-60, -5, 300)
    x = windows(levels_db)
    curve = level_curve(x, 10 ** (-6 / 20) * x, RATE)
    np.testing.assert_allclose(curve.input_db, levels_db, atol=1e-9)
    np.testing.assert_allclose(curve.output_db, levels_db - 6, atol=1e-9)
    assert curve.middles_db.size > 20
    assert np.abs(curve.medians_db + 6 - curve.middles_db).max() < 1  # half a bin


def test_medians_are_a_compressors_curve():
    middles_db = np.arange(-50, -8, 2.0)
    levels_db = np.repeat(middles_db, 5) + np.tile([-0.9, -0.2, 0.1, 0.3, 0.8], middles_db.size)
    out_db = np.where(levels_db < -30, levels_db, -30 + (levels_db + 30) / 4)
    curve = level_curve(windows(levels_db), windows(out_db), RATE)
    np.testing.assert_allclose(curve.middles_db, middles_db)
    np.testing.assert_allclose(curve.medians_db, out_db.reshape(-1, 5)[:, 2], atol=1e-9)


def test_silence_and_what_is_rare_have_no_median():
    levels_in = [-20] * 5 + [-30] * 4 + [-40] * 5 + [SILENCE_DB - 1] * 5 + [-50] * 5
    levels_out = [-20] * 5 + [-30] * 4 + [-40] * 5 + [-20] * 5 + [SILENCE_DB - 1] * 5
    x, y = (np.append(windows(levels), np.ones(399)) for levels in (levels_in, levels_out))
    curve = level_curve(x, y, RATE)
    assert curve.input_db.size == 14, "whole windows that are heard on both sides"
    assert curve.middles_db.tolist() == [-40, -20]
    y[: 5 * 400] = np.nan
    assert level_curve(x, y, RATE).middles_db.tolist() == [-40]
    assert level_curve(np.zeros(4000), np.zeros(4000), RATE).middles_db.size == 0


# Static curves


def test_static_curve_of_a_clipper_is_its_describing_function():
    """N(A) = 2/pi (asin(c/A) + c/A sqrt(1 - (c/A)^2)) for a sine of amplitude A clipped at c."""
    rate, levels_db = 44100, [-40.0, -20.0, -9.0, -3.0]
    measured_db = static_curve(lambda x: np.clip(x, -0.2, 0.2), rate, levels_db)
    share = np.minimum(0.2 / np.sqrt(power_of(np.array(levels_db))), 1)
    expected = 2 / np.pi * (np.arcsin(share) + share * np.sqrt(1 - share**2))
    np.testing.assert_allclose(measured_db, 20 * np.log10(expected), atol=0.01)
    assert measured_db[-1] < -10


def test_static_curve_waits_until_the_gain_has_settled():
    levels_db = [-40.0, -25.0, -12.0, -10.0]
    measured_db = static_curve(partial(compress, times=[(0.1, 0.1)]), RATE, levels_db)
    np.testing.assert_allclose(measured_db, -SLOPE * power_of(np.array(levels_db)), atol=0.001)


# Time constants


@pytest.mark.parametrize("seconds", [0.002, 0.02, 0.3, 4.0])
@pytest.mark.parametrize("share_db", [5.0, -0.5])
def test_one_exponential_is_recovered(seconds, share_db):
    (found,) = time_constants(POINTS, -3 + share_db * np.exp(-POINTS / seconds))
    assert found.seconds == pytest.approx(seconds, rel=0.01)
    assert found.share_db == pytest.approx(share_db, rel=0.02)


@pytest.mark.parametrize(
    ("fast", "slow"), [((0.004, 2.0), (0.06, 2.0)), ((0.01, 3.0), (2.0, 1.0)), ((0.05, -1.0), (0.6, -4.0))]
)
def test_two_exponentials_are_recovered(fast, slow):
    course = -1 + sum(share * np.exp(-POINTS / seconds) for seconds, share in (slow, fast))
    np.testing.assert_allclose(time_constants(POINTS, course), [fast, slow], rtol=0.02)


@pytest.mark.parametrize("seed", [1, 8, 9])
def test_noise_does_not_make_a_second_one(seed):
    noise = 0.1 * np.random.default_rng(seed).standard_normal(POINTS.size)
    (found,) = time_constants(POINTS, 3 * np.exp(-POINTS / 0.1) + noise)
    assert found.seconds == pytest.approx(0.1, rel=0.1)


def test_a_course_that_is_no_exponential_is_not_made_of_two_that_cancel():
    """Deep compression: the gain is exponential, but not in dB."""
    (found,) = time_constants(POINTS, 20 * np.log10(1 + 2 * np.exp(-POINTS / 0.1)))
    assert found.share_db == pytest.approx(20 * math.log10(3), rel=0.2)
    assert 0.1 < found.seconds < 0.2


def test_what_is_weaker_than_a_tenth_is_no_part():
    course = 5 * np.exp(-POINTS / 0.01) + 0.3 * np.exp(-POINTS)
    (found,) = time_constants(POINTS, course)
    assert found.seconds == pytest.approx(0.01, rel=0.2)


@pytest.mark.parametrize(
    "course",
    [
        np.zeros(300),
        0.2 * np.exp(-POINTS / 0.1),
        np.where(POINTS > 1, np.nan, np.exp(-POINTS / 0.1)),
        np.where(POINTS > 1, -np.inf, np.exp(-POINTS / 0.1)),
        0.5 * POINTS,
    ],
    ids=["flat", "nearly flat", "nan", "inf", "drift"],
)
def test_a_course_without_a_time_constant(course):
    assert time_constants(POINTS, course) == []


# Steps


@pytest.mark.parametrize(("attack", "release"), [(0.02, 0.2), (0.1, 1.5)])
def test_a_step_shows_attack_and_release(attack, release):
    response = step_response(partial(compress, times=[(attack, release)]), RATE, -40, -10)
    (up,), (down,) = response.attack, response.release
    assert (up.seconds, down.seconds) == pytest.approx((attack, release), rel=0.02)
    depth_db = SLOPE * (power_of(-10) - power_of(-40))
    assert response.depth_db == pytest.approx(depth_db, rel=0.01)
    assert (up.share_db, -down.share_db) == pytest.approx((depth_db, depth_db), rel=0.05)
    expected_db = -SLOPE * power_of(-10) + depth_db * np.exp(-response.seconds / attack)
    late = response.seconds > 0.002
    np.testing.assert_allclose(response.up_db[late], expected_db[late], atol=0.1)
    assert (response.low_db, response.high_db) == (-40, -10)


def test_a_step_shows_two_stages():
    response = step_response(partial(compress, times=[(0.01, 0.06), (1.0, 2.0)]), RATE, -40, -10)
    half_db = SLOPE / 2 * power_of(-10)
    np.testing.assert_allclose(response.attack, [(0.01, half_db), (1.0, half_db)], rtol=0.05)
    np.testing.assert_allclose(response.release, [(0.06, -half_db), (2.0, -half_db)], rtol=0.05)


def test_steps_lead_into_1_3_and_6_db_as_far_as_the_levels_go():
    responses = step_responses(partial(compress, times=[(0.02, 0.2)]), RATE, -40, -11)
    assert SLOPE * power_of(-11) == pytest.approx(4.8, abs=0.1)
    assert [response.depth_db for response in responses] == pytest.approx([1, 3], rel=0.2)
    assert all(response.low_db == -40 for response in responses)
    assert all(response.attack[0].seconds == pytest.approx(0.02, rel=0.02) for response in responses)


@pytest.mark.parametrize("gain", [0.5, 2.0, 0.0, np.nan, np.inf])
def test_a_gain_that_does_not_fall_has_no_steps(gain):
    with np.errstate(invalid="ignore"):
        assert step_responses(lambda x: gain * x, RATE, -40, -10) == []


def test_the_optical_compressors_cell():
    """At the weakest step: its attack, its fast release, and both times of its memory."""
    rate = 44100
    weak, middle, deep = step_responses(lambda x: optical_compressor(x, rate), rate, -45, -12)
    attack, charge = (part.seconds for part in weak.attack)
    release, memory = (part.seconds for part in weak.release)
    assert attack == pytest.approx(devices.ATTACK_SECONDS, rel=0.2)
    assert charge == pytest.approx(devices.MEMORY_CHARGE_SECONDS, rel=0.2)
    assert release == pytest.approx(devices.FAST_RELEASE_SECONDS, rel=0.2)
    shortest, longest = devices.MEMORY_RELEASE_SECONDS
    releases = [response.release[1].seconds for response in (weak, middle, deep)]
    assert shortest < memory == releases[0] < releases[1] < releases[2] < longest, "it grows with exposure"
    attacks = [response.attack[0].seconds for response in (weak, middle, deep)]
    assert attacks == sorted(attacks, reverse=True), "a feedback loop is faster the deeper it compresses"
    assert [response.depth_db for response in (weak, middle, deep)] == pytest.approx([1, 3, 6], rel=0.1)
    assert weak.depth_db == pytest.approx(weak.down_db[-1] - weak.up_db[-1])


# Onsets


def bursts(count, apart=0.6, quiet_db=-30.0, length=0.5):
    """Noise that is louder for `length` seconds of every `apart`; and the time since the last onset, [T]."""
    size = round(apart * RATE)
    since = (np.arange(count * size + size // 5) - size // 5) % size / RATE
    loud = (since < length) & (np.arange(since.size) >= size // 5)
    x = np.random.default_rng(0).uniform(-0.5, 0.5, since.size)
    return np.where(loud, x, 10 ** (quiet_db / 20) * x), since


def test_a_gain_after_onsets_is_seen():
    x, since = bursts(5)
    course_db = -6 * (1 - np.exp(-since / 0.05))
    found = onsets(x, {"Fast": x * 10 ** (course_db / 20), "None": 0.3 * x}, RATE)
    assert found.places == 5
    np.testing.assert_allclose(found.seconds, 0.005 * np.arange(80), atol=1e-12)
    middles = found.seconds + 0.0025
    expected_db = 6 * (np.exp(-middles / 0.05) - np.exp(-0.0025 / 0.05))
    np.testing.assert_allclose(found.gains_db["Fast"], expected_db, atol=0.05)
    np.testing.assert_allclose(found.gains_db["None"], 0, atol=1e-9)


@pytest.mark.parametrize(
    "how",
    [
        {"count": 2},  # too few
        {"count": 8, "quiet_db": -8.0},  # no rise
        {"count": 8, "length": 0.2},  # gone before 0.4 s are over
    ],
)
def test_recordings_without_onsets(how):
    x, _ = bursts(**{"quiet_db": -40.0, **how})
    assert onsets(x, {"Target": x}, RATE) is None


def test_the_limits_of_an_onset():
    assert onsets(bursts(3)[0], {}, RATE).places == 3
    assert onsets(bursts(8, quiet_db=-20.0)[0], {}, RATE).places == 8
    close, _ = bursts(8, apart=0.3, quiet_db=-20.0, length=0.2)
    assert onsets(close, {}, RATE).places == 4, "no two within 0.4 s"
    assert onsets(np.zeros(RATE * 5), {}, RATE) is None
    assert onsets(np.zeros(0), {}, RATE) is None

"""Samples at other moments: against sums of sines, whose value at every moment is known."""

import numpy as np
import pytest

from klann_lightning.doctor.warp import FADE, REACH, STEP, Line, warp

RATE = 48000


def tones(moments, highest=0.9, seed=0):
    """Forty sines, from 0 to `highest` times the Nyquist frequency, at moments in samples -> [T]."""
    chance = np.random.default_rng(seed)
    pitches, phases = chance.uniform(0.0005, highest, 40), chance.uniform(0, 2 * np.pi, 40)
    pairs = zip(pitches, phases, strict=True)
    return sum(np.sin(np.pi * pitch * moments + phase) for pitch, phase in pairs) / 40


def error_db(result, expected):
    return 10 * np.log10(np.sum((result - expected) ** 2.0) / np.sum(expected**2.0))


def chunks(samples, size):
    return [samples[start : start + size] for start in range(0, len(samples), size)]


def whole(samples, lines, frames, size=4096):
    parts = list(warp(chunks(samples, size), lines, frames))
    assert all(part.dtype == np.float32 for part in parts)
    return np.concatenate(parts)


@pytest.mark.parametrize("highest", [0.5, 0.9, 0.94])
@pytest.mark.parametrize(
    ("offset", "slope"),
    [(1234.37, 1), (-0.5, 1), (500.5, 1 + 500e-6), (0.2, 1 - 500e-6), (-70.02, 1 + 1e-6)],
)
def test_between_samples(highest, offset, slope):
    frames = 70_000
    result = whole(tones(np.arange(80_000.0), highest).astype(np.float32), [Line(0, offset, slope)], frames)
    moments = offset + slope * np.arange(frames)
    there = (moments >= REACH) & (moments < 80_000 - REACH)
    assert there.sum() > 69_000
    assert error_db(result[there], tones(moments[there], highest)) < (-120 if highest <= 0.9 else -115)


def test_a_quiet_passage_beside_a_loud_one_stays_quiet():
    samples = np.zeros(20_000, np.float32)
    samples[:10_000] = tones(np.arange(10_000.0))
    result = whole(samples, [Line(0, 0.37, 1 + 1e-4)], 19_000)
    assert np.abs(result[10_000 + REACH :]).max() < 1e-12


@pytest.mark.parametrize("offset", [0, 1, 77, STEP - 1, 40_000, -1, -300, -99_999])
def test_whole_samples_are_copied(offset):
    samples = np.random.default_rng(0).normal(size=50_000).astype(np.float32)
    result = whole(samples, [Line(0, offset)], 60_000)
    expected = np.concatenate([np.zeros(100_000, np.float32), samples, np.zeros(160_000, np.float32)])
    np.testing.assert_array_equal(result, expected[100_000 + offset :][:60_000])


@pytest.mark.parametrize(
    "lines",
    [
        [Line(0, 100.3)],
        [Line(0, -50.7, 1 + 2e-4)],
        [Line(0, 5.0), Line(30_000, -4000.0), Line(60_000, 200.25), Line(60_050, 12_000.0, 1 - 1e-4)],
    ],
)
def test_the_size_of_blocks_does_not_matter(lines):
    samples = np.random.default_rng(1).normal(size=100_000).astype(np.float32)
    expected = whole(samples, lines, 90_000, len(samples))
    for size in (7, 1000, STEP, 65_536):
        np.testing.assert_array_equal(whole(samples, lines, 90_000, size), expected)


@pytest.mark.parametrize("jump", [3000, -3000, 0.5, -200_000, 70_000])
def test_lines_follow_each_other_with_a_crossfade(jump):
    """However far one goes back or forth: outside the crossfade each is as it is alone."""
    samples = np.random.default_rng(2).normal(size=400_000).astype(np.float32)
    both = whole(samples, [Line(0, 10), Line(250_000, 10 + jump)], 300_000)
    before = whole(samples, [Line(0, 10)], 300_000)
    after = whole(samples, [Line(0, 10 + jump)], 300_000)
    start, stop = 250_000 - FADE // 2, 250_000 + FADE // 2
    np.testing.assert_array_equal(both[:start], before[:start])
    np.testing.assert_array_equal(both[stop:], after[stop:])
    share = (np.arange(FADE) + 0.5) / FADE
    mixed = (1 - share) * before[start:stop] + share * after[start:stop]
    np.testing.assert_allclose(both[start:stop], mixed, rtol=0, atol=1e-6)


def test_lines_that_are_one_leave_no_trace():
    samples = tones(np.arange(80_000.0)).astype(np.float32)
    lines = [Line(start, 7.25, 1 + 3e-5) for start in (0, 10_000, 10_030, STEP, STEP + 1)]
    one, many = (whole(samples, some, 70_000) for some in (lines[:1], lines))
    np.testing.assert_allclose(many, one, rtol=0, atol=1e-7)

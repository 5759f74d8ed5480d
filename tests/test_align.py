"""Where the target answers the input: against delays, drifts and jumps that were put in."""

import numpy as np
import pytest
from effects import CLASS_OF, EFFECTS

from klann_lightning.data.signals import dry_signal
from klann_lightning.doctor.align import Aligned, align
from klann_lightning.doctor.pair_faults import unrelated
from klann_lightning.doctor.source import Source
from klann_lightning.doctor.warp import Line, warp

RATE = 44100
EXACT = {"clean", "linear", "light", "dynamics"}  # known to a tenth of a sample, the others to two


@pytest.fixture(scope="module")
def dry():
    return dry_signal(12.0, RATE, 3)


def late(samples, delay, ppm=0.0):
    """What arrives `delay` samples late from a device whose recorder's clock is `ppm` fast."""
    slope = 1 / (1 + ppm * 1e-6)
    line = Line(0, -delay * slope, slope)
    return np.concatenate(list(warp([np.asarray(samples, np.float32)], [line], len(samples)))).astype(float)


def aligned(x, y) -> Aligned:
    found = align(Source(x, RATE), Source(y, RATE))
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("name", "delay", "polarity"),
    [
        ("gain", 0.0, 1),
        ("eq", 1234.37, -1),
        ("lowpass", -9000.4, 1),
        ("cabinet", 312.8, 1),
        ("optical", -77.25, -1),
        ("limiter", 5000.5, 1),
        ("softclip", 9876.1, -1),
        ("hardclip", -4321.6, 1),
        ("overdrive", 250.3, -1),
        ("fuzz", -1500.7, 1),
        ("diode", 40.9, 1),
        ("reverb", 700.2, 1),
        ("chorus", -20.1, -1),
    ],
)
def test_delay_and_polarity(dry, name, delay, polarity):
    wet = EFFECTS[name](dry, RATE)
    noise = 1e-4 * wet.std() * np.random.default_rng(0).standard_normal(len(wet))
    found = aligned(dry, polarity * late(wet, delay) + noise).alignment
    assert abs(found.delay - delay) < (0.1 if CLASS_OF[name] in EXACT else 2)
    assert (found.polarity, found.jumps) == (polarity, ())
    assert abs(found.drift_ppm) < 0.4
    assert found.confidence > 0.5
    assert found.polarity_confidence > 0.5


@pytest.mark.parametrize(("name", "ppm"), [("eq", 2.0), ("comp", -31.0), ("hardclip", 480.0)])
def test_drift(dry, name, ppm):
    wet = EFFECTS[name](dry, RATE)
    found = aligned(dry, late(wet, 321.7, ppm)).alignment
    assert abs(found.drift_ppm - ppm) < 0.05 * abs(ppm)
    assert abs(found.delay - 321.7) < 0.3  # a clock's start is less well known than its middle


@pytest.mark.parametrize("by", [-441, 64, 1000])
def test_lost_and_repeated_samples(dry, by):
    wet = EFFECTS["comp"](dry, RATE)
    at = 200_000
    again = np.concatenate([wet[:at], wet[at - by :], np.zeros(1000)])[: len(dry)]
    found = aligned(dry, again).alignment
    (jump,) = found.jumps
    assert abs(jump.by - by) < 0.5
    assert abs(jump.at - at) < 2000
    assert abs(found.delay) < 0.1


def test_samples_lost_where_the_sound_repeats():
    """A note of the bass has a period of 441 samples, and goes on as if nothing were missing."""
    dry = dry_signal(10.0, RATE, 7)
    wet = EFFECTS["comp"](dry, RATE)
    found = aligned(dry, np.concatenate([wet[:200_000], wet[200_441:]])).alignment
    assert [jump.by for jump in found.jumps] == [-441]
    assert abs(found.delay) < 0.1


def test_far_away(dry):
    """A recorder that was started seconds before the other."""
    wet = EFFECTS["eq"](dry, RATE)
    found = aligned(dry, np.concatenate([np.zeros(150_000), wet])).alignment
    assert abs(found.delay - 150_000) < 0.1
    back = aligned(np.concatenate([np.zeros(150_000), dry]), wet).alignment
    assert abs(back.delay + 150_000) < 0.1


def test_two_that_have_nothing_in_common(dry):
    found = align(Source(dry, RATE), Source(dry_signal(12.0, RATE, 99), RATE))
    assert found is None or unrelated(found)


def test_one_steady_note_is_not_trusted():
    """Any whole number of periods would do."""
    time = np.arange(8 * RATE) / RATE
    note = sum(np.sin(2 * np.pi * 110 * k * time) / k for k in range(1, 20))
    found = align(Source(note, RATE), Source(np.roll(note, 1000), RATE))
    assert found is None or found.alignment.confidence < 0.5


def test_silence_is_nowhere(dry):
    assert align(Source(dry, RATE), Source(np.zeros(len(dry)), RATE)) is None


@pytest.mark.parametrize("rate", [8000, 48000, 96000])
def test_other_rates(rate):
    dry = dry_signal(6.0, rate, 1)
    wet = EFFECTS["lowpass"](dry, rate)
    found = align(Source(dry, rate), Source(late(wet, 12.6), rate))
    assert found is not None
    assert abs(found.alignment.delay - 12.6) < 0.1

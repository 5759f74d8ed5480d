"""Calibration clicks: heard where they are, and believed where the music tells nothing of the delay."""

import numpy as np
import pytest
from scipy.signal import lfilter

from klann_lightning.data.signals import dry_signal
from klann_lightning.doctor.align import align
from klann_lightning.doctor.clicks import heard_clicks, onsets
from klann_lightning.doctor.source import Source

RATE = 44100


def opened_with_clicks(music):
    """Two seconds with two clicks before the music."""
    opening = np.zeros(2 * RATE)
    opening[[RATE // 2, RATE]] = 0.9
    return np.concatenate([opening, music])


def late(y, delay):
    return (
        np.concatenate([np.zeros(delay), y])[: len(y)]
        if delay >= 0
        else np.append(y[-delay:], np.zeros(-delay))
    )


def steady(seconds=6):
    """A note that is the same after each of its periods: of 147 samples."""
    n = np.arange(seconds * RATE)
    return sum(np.sin(2 * np.pi * k * n / 147) / k for k in range(1, 20)) / 4


@pytest.mark.parametrize("delay", [-3000, 0, 777, 20000])
@pytest.mark.parametrize("gain", [0.5, -3.0])
def test_clicks_tell_the_delay(delay, gain):
    x = opened_with_clicks(dry_signal(3, RATE, 0))
    y = late(np.tanh(gain * lfilter([0.3], [1, -0.7], x)), delay)
    found = heard_clicks(Source(x, RATE), Source(y, RATE), 1 << 16)
    assert found is not None
    assert abs(found.delay - delay) <= 2
    assert found.agreeing >= 2


def test_music_is_no_click():
    x = dry_signal(10, RATE, 1)
    assert len(onsets(x, RATE, short=True)) < 2
    assert heard_clicks(Source(x, RATE), Source(x, RATE), 1 << 16) is None


def test_silence_has_none():
    assert len(onsets(np.zeros(RATE), RATE, short=True)) == 0


@pytest.mark.parametrize("delay", [430, -150])
def test_a_steady_note_is_placed_by_clicks(delay):
    """Without them each of its periods would do."""
    x = opened_with_clicks(steady())
    noise = 1e-3 * np.random.default_rng(0).normal(size=len(x))
    found = align(Source(x, RATE), Source(late(np.tanh(2 * x), delay) + noise, RATE))
    assert found is not None
    assert abs(found.alignment.delay - delay) < 2
    assert found.clicks == 2
    assert found.sure_of_place == 1


def test_beats_of_a_steady_time_tell_no_delay():
    """Each beat later would do as well."""
    x = np.zeros(8 * RATE)
    x[RATE // 4 :: RATE // 2] = 0.9
    assert heard_clicks(Source(x, RATE), Source(late(x, RATE // 2), RATE), 1 << 16) is None

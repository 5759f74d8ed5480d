"""How long devices remember, against time constants that are known."""

import numpy as np
import pytest
from effects import _follow, echo, flanger, optical_compressor, phaser, room, softclip, tremolo, wah
from scipy.signal import fftconvolve

from klann_lightning.data.signals import dry_signal
from klann_lightning.doctor.character import characterise
from klann_lightning.doctor.gains import gain_follows
from klann_lightning.doctor.linear import long_filter, short_filter
from klann_lightning.doctor.memory import FORGOTTEN, filter_memory, gain_memory
from klann_lightning.doctor.periodic import period_of

RATE = 44100


@pytest.fixture(scope="module")
def dry():
    return dry_signal(16, RATE, 1)


@pytest.mark.parametrize("attack", [0.02])
@pytest.mark.parametrize("release", [0.05, 0.2, 1.0])
def test_a_compressors_release(dry, release, attack):
    level = np.maximum(_follow(dry, RATE, attack, release), 1e-9)
    wet = 2 * dry * np.minimum(1, (level / 0.05) ** -0.7)
    memory = gain_memory(gain_follows(dry, wet, RATE))
    assert 0.5 < memory / (FORGOTTEN * release) < 2


@pytest.mark.parametrize("t60", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("wet", [0.2, 0.4])
def test_a_rooms_decay(dry, t60, wet):
    """-40 dB are two thirds of t60; a little less where the dry sound holds most of the energy."""
    y = 0.7 * dry + wet * fftconvolve(dry, room(t60, RATE))[: len(dry)]
    short = short_filter(dry, y)
    assert 0.5 < filter_memory(short, long_filter(dry, y, short, RATE), RATE) / (t60 * 2 / 3) < 2


@pytest.mark.parametrize("seconds", [0.1, 0.31, 0.6])
def test_an_echo(dry, seconds):
    y, later = dry.copy(), round(seconds * RATE)
    y[later:] += 0.5 * dry[:-later]
    short = short_filter(dry, y)
    assert 0.5 < filter_memory(short, long_filter(dry, y, short, RATE), RATE) / seconds < 2.2


def test_a_clipper_remembers_next_to_nothing(dry):
    assert characterise(dry, softclip(dry, RATE), RATE).memory_seconds < 0.05


def test_an_optical_cell_remembers_for_long(dry):
    assert 0.3 < characterise(dry, optical_compressor(dry, RATE), RATE).memory_seconds < 6


@pytest.mark.parametrize(("effect", "hz"), [(tremolo, 5), (flanger, 0.3), (phaser, 0.4), (wah, 0.7)])
def test_periods(dry, effect, hz):
    """A multiple of the period counts."""
    found = period_of(dry, effect(dry, RATE), RATE)
    turns = found.seconds * hz
    assert found.found
    assert round(turns) >= 1
    assert abs(turns - round(turns)) < 0.05


@pytest.mark.parametrize("effect", [softclip, echo])
def test_what_has_no_period(dry, effect):
    assert not period_of(dry, effect(dry, RATE), RATE).found


def test_a_short_recording_tells_no_period(dry):
    x = dry[: 4 * RATE]
    assert not period_of(x, tremolo(x, RATE), RATE).found

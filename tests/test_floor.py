"""The error that no model can beat: known noise must be found, and never more than there is."""

import math

import numpy as np
import pytest
from effects import EFFECTS, softclip

from klann_lightning.data.signals import dry_signal
from klann_lightning.doctor.floor import floor_of, grid_bits, pauses
from klann_lightning.doctor.repeats import repeat_error

RATE = 44100


@pytest.fixture(scope="module")
def dry():
    return dry_signal(15, RATE, 1)


def noisy(wet, esr_db, seed=0):
    noise = np.random.default_rng(seed).standard_normal(len(wet))
    return wet + noise * np.sqrt(10 ** (esr_db / 10) * np.square(wet).mean())


@pytest.mark.parametrize("esr_db", [-60, -40])
@pytest.mark.parametrize("hiss_db", [-math.inf, -75])
@pytest.mark.parametrize("name", ["eq", "overdrive", "comp", "gate", "fuzz"])
def test_noise_in_pauses_is_found_and_not_overestimated(dry, name, hiss_db, esr_db):
    """The input's own hiss is played through the device, and is no noise of the target's."""
    source = dry + np.random.default_rng(9).standard_normal(len(dry)) * 10 ** (hiss_db / 20)
    floor = floor_of(source, noisy(EFFECTS[name](source, RATE), esr_db), RATE, 0.02, math.inf)
    assert floor.origin == "pauses"
    assert esr_db - 2 < 10 * math.log10(floor.esr) < esr_db + 0.5


@pytest.mark.parametrize("name", ["echo", "reverb"])
def test_a_device_that_rings_on_is_not_noise(dry, name):
    floor = floor_of(dry, noisy(EFFECTS[name](dry, RATE), -60), RATE, 0.02, math.inf)
    assert floor.origin == "none" or 10 * math.log10(floor.esr) < -59


def test_noise_before_a_gain_counts_as_what_arrives(dry):
    """A compressor's own noise, at its input: in pauses it is amplified fully, under music it is not."""
    noise = np.random.default_rng(0).standard_normal(len(dry)) * 3e-4
    level = np.maximum(np.convolve(np.abs(dry), np.ones(2000) / 2000, "same"), 1e-3)
    gain = 1e-3 / level
    wet = gain * dry
    floor = floor_of(dry, wet + gain * noise, RATE, 0.05, math.inf)
    true = np.square(gain * noise).mean() / np.square(wet).mean()
    assert floor.esr < 1.3 * true  # which is 9 dB less than in pauses


@pytest.mark.parametrize("name", ["softclip", "comp", "tremolo"])
def test_repeats_tell_the_noise(name):
    """Also in a tremolo: 4 s are twenty of its turns."""
    loop = np.tile(dry_signal(4, RATE, 3), 3)
    wet = EFFECTS[name](loop, RATE)
    assert 10 * math.log10(repeat_error(loop, noisy(wet, -50), RATE, 0.3)) == pytest.approx(-50, abs=1.5)


def test_without_repeats_nothing_is_said(dry):
    assert math.isnan(repeat_error(dry, dry, RATE, 0.1))


def test_repeats_tell_a_clock_that_runs_free():
    loop = np.tile(dry_signal(4.07, RATE, 3), 3)
    assert 10 * math.log10(repeat_error(loop, EFFECTS["tremolo"](loop, RATE), RATE, 0.3)) > -20


@pytest.mark.parametrize("bits", [8, 16, 20, 24])
def test_steps(dry, bits):
    wet = softclip(dry, RATE)
    stepped = np.round(wet * 2 ** (bits - 1)) / 2 ** (bits - 1)
    assert grid_bits(stepped) == bits
    floor = floor_of(dry, stepped, RATE, 0.02, math.inf)
    true = np.square(stepped - wet).mean() / np.square(wet).mean()
    assert floor.origin == "quantisation"
    assert abs(10 * math.log10(floor.esr / true)) < 2


def test_no_steps(dry):
    assert math.isnan(grid_bits(softclip(dry, RATE)))


@pytest.mark.parametrize("hz", [50.0, 60.0])
def test_hum_has_its_frequency(dry, hz):
    t = np.arange(len(dry)) / RATE
    hum = 0.01 * np.sin(2 * np.pi * hz * t) + 0.003 * np.sin(6 * np.pi * hz * t + 1)
    wet = softclip(dry, RATE)
    assert floor_of(dry, wet + hum, RATE, 0.02, math.inf).hum_hz == hz
    assert math.isnan(floor_of(dry, noisy(wet, -40), RATE, 0.02, math.inf).hum_hz)


def test_pauses_are_where_nothing_is_played(dry):
    found = pauses(dry, RATE, 0.05)
    assert found
    assert all(not dry[a - int(0.04 * RATE) : b].any() for a, b in found)

"""Aliasing against what folds by calculation, and against harmonics measured where nothing folds."""

import math

import numpy as np
import pytest
from scipy.signal import lfilter

from klann_lightning.aliasing import aliasing

RATE = 44100
OVERSAMPLING = 16


def driven(x):
    return np.tanh(3 * x)


def harmonic_energies(model, hz, level):
    """Of harmonics 0, 1, ... below 353 kHz: one period's bins at 16 times the rate, over one second."""
    rate = OVERSAMPLING * RATE
    sine = level * math.sqrt(2) * np.sin(2 * np.pi * hz * np.arange(rate) / rate)
    return np.abs(np.fft.rfft(model(sine))[:: int(hz)]) ** 2


def test_sines_are_log_spaced_and_their_harmonics_fold_onto_none():
    bins = aliasing(driven, RATE, 0.5).frequencies_hz.astype(int)
    np.testing.assert_allclose(bins, np.geomspace(100, 10000, 12), rtol=0.05)
    for b in bins:
        assert math.gcd(b, RATE) == 1
        orders = np.arange(1, 3 * RATE // b)  # up to three times the sample rate
        folded = np.abs((orders * b + RATE // 2) % RATE - RATE // 2)
        aliases = folded[orders * b > RATE / 2]
        assert np.minimum(aliases % b, -aliases % b).min() >= 14  # 10 of the harmonic, 3 of the alias


@pytest.mark.parametrize(
    ("rate", "highest_hz"), [(8000, 3600), (16000, 7200), (48000, 10000), (192000, 10000)]
)
def test_sines_of_other_rates(rate, highest_hz):
    measured = aliasing(lambda x: x, rate, 0.1)
    assert measured.frequencies_hz.shape == measured.aliasing_db.shape == (12,)
    assert measured.frequencies_hz[[0, -1]] == pytest.approx([100, highest_hz], rel=0.1)
    assert measured.overall_db < -200


def test_a_tanh_folds_the_harmonics_that_it_has_beyond_nyquist():
    measured = aliasing(driven, RATE, 1.0)
    folded, total = 0.0, 0.0
    for hz, aliasing_db in zip(measured.frequencies_hz, measured.aliasing_db, strict=True):
        energies = harmonic_energies(driven, hz, 1.0)
        beyond = energies[np.arange(energies.size) * hz > RATE / 2].sum()
        folded, total = folded + beyond, total + energies[1:].sum()
        if aliasing_db > -180:
            assert aliasing_db == pytest.approx(10 * math.log10(beyond / energies[1:].sum()), abs=0.01)
    assert measured.overall_db == pytest.approx(10 * math.log10(folded / total), abs=0.01)
    assert measured.aliasing_db[0] < -200
    assert measured.aliasing_db[-1] > -12


def test_a_clipper_at_100_hz():
    """Its harmonics fall by 12 dB an octave only, so that those of many folds count, too."""
    measured = aliasing(lambda x: np.clip(x, -0.3, 0.3), RATE, 1.0, [100])
    energies = harmonic_energies(lambda x: np.clip(x, -0.3, 0.3), measured.frequencies_hz[0], 1.0)
    beyond = energies[np.arange(energies.size) * measured.frequencies_hz[0] > RATE / 2].sum()
    assert measured.overall_db == pytest.approx(10 * math.log10(beyond / energies[1:].sum()), abs=0.3)


def test_a_square_has_dc_and_an_octave_that_folds_beyond_half_of_nyquist():
    """x + x^2 of a sine of amplitude A: A^2 / 2 of DC, A at f, A^2 / 2 at 2 f. The DC does not count."""
    level = 0.3
    octave = (2 * level**2 / 2) ** 2 / (2 * level**2)
    measured = aliasing(lambda x: x + x**2, RATE, level, [1000, 10900, 11100, 20000])
    expected_db = 10 * math.log10(octave / (1 + octave))
    assert (measured.aliasing_db[measured.frequencies_hz < RATE / 4] < -200).all()
    np.testing.assert_allclose(
        measured.aliasing_db[measured.frequencies_hz > RATE / 4], expected_db, atol=1e-9
    )
    assert {*(measured.frequencies_hz > RATE / 4)} == {False, True}


def test_a_square_alone_is_all_alias_beyond_half_of_nyquist():
    assert aliasing(lambda x: x**2, RATE, 0.3, [12000]).aliasing_db == pytest.approx([0], abs=1e-9)


@pytest.mark.parametrize("pole", [0.5, 0.999, -0.95])
def test_a_linear_filter_has_none(pole):
    assert aliasing(lambda x: lfilter([1 - abs(pole)], [1, -pole], x), RATE, 0.3).aliasing_db.max() < -150


def test_float32_stays_out_of_the_way():
    assert aliasing(lambda x: x.astype(np.float32), RATE, 0.1).aliasing_db.max() < -140


@pytest.mark.parametrize("seconds", [0.1, 0.3, 1.0, 3.0, 10.0])
def test_a_drifting_gain(seconds):
    """Twice the gain at first, with the time constant of a compressor's release."""
    gain = 1 + np.exp(-np.arange(RATE + RATE // 2) / (seconds * RATE))
    assert aliasing(lambda x: gain * x, RATE, 0.1).aliasing_db.max() < -139


def test_a_gain_that_ripples_with_the_sine_makes_harmonics():
    """As a compressor's does, whose detector follows the power."""
    measured = aliasing(lambda x: x / (1 + lfilter([0.01], [1, -0.99], x**2)), RATE, 0.3, [100, 400, 1000])
    assert measured.aliasing_db.max() < -120


def test_noise_counts():
    """White noise of known power: what lies within 10 Hz of the harmonics is not seen."""
    hiss = 1e-3 * np.random.default_rng(0).standard_normal(RATE + RATE // 2)
    measured = aliasing(lambda x: x + hiss, RATE, 1.0, [2000])
    assert measured.overall_db == pytest.approx(-60 + 10 * math.log10(1 - 21 / 2000), abs=0.2)


def test_the_level_is_the_rms_that_the_model_is_given():
    heard = []
    aliasing(lambda x: heard.append(x) or x, RATE, 0.2, [1000])
    (x,) = heard
    assert x.shape == (RATE + RATE // 2,)
    assert math.sqrt(np.mean(x[:RATE] ** 2)) == pytest.approx(0.2)


@pytest.mark.parametrize(
    "dead", [np.zeros_like, lambda x: np.full_like(x, np.nan), lambda x: np.full_like(x, np.inf)]
)
def test_a_model_that_is_silent_or_diverged_has_no_figure(dead):
    measured = aliasing(dead, RATE, 0.2, [1000])
    assert np.isnan([*measured.aliasing_db, measured.overall_db]).all()


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(ValueError, match=r"RMS level 0 measures nothing"):
        aliasing(driven, RATE, 0)
    for hz in (49, 22050):
        with pytest.raises(ValueError, match=rf"a sine of {hz} Hz at 44100 Hz. Choose 50 Hz or more"):
            aliasing(driven, RATE, 0.1, [hz])
    with pytest.raises(ValueError, match=r"the model made \(1, 66150\) of \(66150,\)"):
        aliasing(lambda x: x[None], RATE, 0.1)

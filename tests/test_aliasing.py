"""Aliasing against what folds by calculation, and against harmonics measured where nothing folds."""

import math

import numpy as np
import pytest
from scipy.signal import lfilter

from klann_lightning.aliasing import aliasing, sine_spectrum

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


# Spectra of single sines


def test_a_wire_has_the_sine_alone():
    found = sine_spectrum(lambda x: x, RATE, 0.1, 1000)
    assert found.level_db == pytest.approx(-20)
    assert found.frequency_hz == pytest.approx(1000, rel=0.1)
    assert math.gcd(found.frequency_hz, RATE) == 1
    np.testing.assert_array_equal(
        found.harmonics_hz, np.arange(found.frequency_hz, RATE / 2, found.frequency_hz)
    )
    assert found.harmonics_db[0] == pytest.approx(20 * math.log10(0.1 * math.sqrt(2)), abs=1e-6)
    assert found.harmonics_db[1:].max() < -200
    assert found.between_db.max() < -200


def test_harmonics_of_a_polynomial_are_calculated():
    """(A sin)^2 has A^2 / 2 at 2 f, (A sin)^3 3/4 A^3 at f and A^3 / 4 at 3 f; DC is no harmonic."""
    level = 0.3
    amplitude = math.sqrt(2) * level
    found = sine_spectrum(lambda x: x + x**2 + x**3, RATE, level, 1000)
    peaks = amplitude + 0.75 * amplitude**3, amplitude**2 / 2, amplitude**3 / 4
    np.testing.assert_allclose(found.harmonics_db[:3], 20 * np.log10(peaks), atol=1e-6)
    assert found.harmonics_db[3:].max() < -200
    assert found.between_db.max() < -200
    assert found.between_hz.min() > 10


@pytest.mark.parametrize("hz", [9000, 12000])
def test_what_folds_lies_between_at_its_own_frequency(hz):
    """The third harmonic of f above 7350 Hz comes out at |44100 - 3 f|."""
    level = 0.3
    found = sine_spectrum(lambda x: x + x**3, RATE, level, hz)
    strongest = found.between_db.argmax()
    assert found.between_hz[strongest] == abs(RATE - 3 * found.frequency_hz)
    folded = (math.sqrt(2) * level) ** 3 / 4
    assert found.between_db[strongest] == pytest.approx(20 * math.log10(folded), abs=1e-6)


def test_both_measures_of_aliasing_agree():
    """A line of the window sin^6 has (1, 3/4, 3/10, 1/20) of its peak at 0, 1, 2, 3 bins' distance."""
    found = sine_spectrum(driven, RATE, 1.0, 5000)
    measured = aliasing(driven, RATE, 1.0, [5000])
    assert measured.frequencies_hz == [found.frequency_hz]
    spread = 1 + 2 * (0.75**2 + 0.3**2 + 0.05**2)
    between = np.sum(10 ** (found.between_db / 10))
    total = between + spread * np.sum(10 ** (found.harmonics_db / 10))
    assert measured.overall_db == pytest.approx(10 * math.log10(between / total), abs=0.01)


def test_harmonics_and_the_rest_are_all_bins_once():
    found = sine_spectrum(driven, RATE, 0.5, 1000)
    near = [hz for m in found.harmonics_hz.astype(int) for hz in range(m - 10, min(m + 10, RATE // 2) + 1)]
    assert sorted([*near, *found.between_hz.astype(int)]) == [*range(11, RATE // 2 + 1)]


def test_a_spectrum_is_the_settled_ones():
    burst = np.where(np.arange(RATE + RATE // 2) < RATE // 2, 1.0, 0.0)
    found = sine_spectrum(lambda x: x + burst, RATE, 0.1, 1000)
    assert found.between_db.max() < -200


@pytest.mark.parametrize(("dead", "level_db"), [(0.0, -math.inf), (math.nan, math.nan), (math.inf, math.nan)])
def test_a_spectrum_of_what_is_silent_or_diverged(dead, level_db):
    found = sine_spectrum(lambda x: np.full_like(x, dead), RATE, 0.1, 1000)
    for values in (found.harmonics_db, found.between_db):
        np.testing.assert_array_equal(values, np.full_like(values, level_db))


def test_spectra_that_cannot_be_measured_are_refused():
    for level in (0, -0.1, math.nan):
        with pytest.raises(ValueError, match=rf"RMS level {level} measures nothing"):
            sine_spectrum(driven, RATE, level, 1000)
    with pytest.raises(ValueError, match=r"a sine of 22050 Hz at 44100 Hz. Choose 50 Hz or more"):
        sine_spectrum(driven, RATE, 0.1, 22050)
    with pytest.raises(ValueError, match=r"the model made \(1, 66150\) of \(66150,\)"):
        sine_spectrum(lambda x: x[None], RATE, 0.1, 1000)

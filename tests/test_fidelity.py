"""Each figure against an answer that was computed in another way, and where it has none."""

import math

import numpy as np
import pytest
from scipy.signal import lfilter

from klann_lightning.fidelity import (
    Fidelity,
    crest_error,
    envelope_error,
    esr_over_time,
    fidelity,
    level_over_time,
    log_spectral_distance,
    loudness_error,
    noise_floor,
)

RATE = 48000
GAIN_OF_2_DB = 20 * math.log10(2)
# The two filters of ITU-R BS.1770-4, tables 1 and 2, at 48 kHz.
SHELF = ([1.53512485958697, -2.69169618940638, 1.19839281085285], [1, -1.69065929318241, 0.73248077421585])
HIGH_PASS = ([1.0, -2.0, 1.0], [1, -1.99004745483398, 0.99007225036621])


def noise(seconds, seed=0, scale=0.1):
    return scale * np.random.default_rng(seed).standard_normal(round(seconds * RATE))


def sine(seconds, hz, amplitude=0.5):
    return amplitude * np.sin(2 * np.pi * hz * np.arange(round(seconds * RATE)) / RATE)


def lufs(x):
    """BS.1770-4, equations 2 to 7, of mono audio at 48 kHz."""
    weighted = lfilter(*HIGH_PASS, lfilter(*SHELF, x))
    starts = range(0, len(x) - 19200 + 1, 4800)
    powers = np.array([np.mean(weighted[start : start + 19200] ** 2) for start in starts])
    powers = powers[-0.691 + 10 * np.log10(powers + 1e-30) > -70]
    relative = powers.mean() / 10
    return -0.691 + 10 * math.log10(powers[powers > relative].mean())


def test_an_output_that_is_twice_the_target():
    target = noise(4)
    expected = Fidelity(GAIN_OF_2_DB, GAIN_OF_2_DB, 0, GAIN_OF_2_DB)
    assert fidelity(2 * target, target, RATE) == pytest.approx(expected, abs=1e-9)


def test_an_output_that_is_the_target():
    target = noise(2)
    assert fidelity(target, target.copy(), RATE) == (0, 0, 0, 0)
    assert (esr_over_time(target, target.copy(), RATE) == -np.inf).all()


@pytest.mark.parametrize("change", [lambda x: -x, lambda x: x.astype(np.float32)])
def test_polarity_and_float32_change_nothing(change):
    output, target = noise(2, 1), noise(2)
    expected = fidelity(output, target, RATE)
    assert fidelity(change(output), change(target), RATE) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("gain", [0.3, 3.0])
def test_figures_do_not_depend_on_a_gain_before_both(gain):
    output, target = noise(2, 1) * np.linspace(0, 1, 2 * RATE), noise(2)
    expected = fidelity(output, target, RATE)
    assert fidelity(gain * output, gain * target, RATE) == pytest.approx(expected, abs=1e-9)
    changed, unchanged = (esr_over_time(g * output, g * target, RATE) for g in (gain, 1))
    np.testing.assert_allclose(changed, unchanged, rtol=0, atol=1e-9)
    assert noise_floor(gain * output, RATE) == pytest.approx(noise_floor(output, RATE), abs=1e-9)


def test_spectral_distance_of_a_filter_is_its_rms_gain_in_db():
    """A first-order shelf in the middle of the band: 10 log10 |H|^2 at the bins, whatever the frames hold."""
    b, a = [1.0, -0.5], [1.0, -0.2]
    target = noise(20)
    bins = np.exp(-1j * np.pi * np.arange(1025) / 1024)
    gain_db = 20 * np.log10(np.abs((b[0] + b[1] * bins) / (a[0] + a[1] * bins)))
    distance = log_spectral_distance(lfilter(b, a, target), target)
    assert distance == pytest.approx(math.sqrt(np.mean(gain_db**2)), abs=0.01)


def test_spectral_distance_of_two_noises():
    """The log of a bin's power has a deviation of pi/sqrt(6) nepers, and there are two of them."""
    expected = 10 / math.log(10) * math.pi / math.sqrt(6) * math.sqrt(2)
    assert log_spectral_distance(noise(20, 1), noise(20, 2)) == pytest.approx(expected, abs=0.02)


def test_what_lies_below_the_spectral_floor_is_silence():
    target = noise(4)
    target[RATE:] = 0
    hiss = noise(4, 1, scale=0.1 * 0.1)
    hiss[:RATE] = 0
    loud, soft = (log_spectral_distance(target + level * hiss, target) for level in (1.0, 1e-4))
    # three quarters of the frames: hiss at -20 dB stands 40 dB above the floor, less 2.5 dB for log noise
    assert loud == pytest.approx(0.75 * (40 - 2.5), abs=1)
    assert soft < 0.01


def test_spectral_distance_does_not_depend_on_groups_of_frames(monkeypatch):
    output, target = noise(2, 1), noise(2)
    expected = log_spectral_distance(output, target)
    monkeypatch.setattr("klann_lightning.fidelity.FRAMES_AT_ONCE", 7)
    assert log_spectral_distance(output, target) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seconds", [3.0, 3.06])
def test_loudness_is_that_of_bs_1770(seconds):
    """Bursts 30 dB apart, so that both gates have something to do; an end between two blocks is left out."""
    target = noise(seconds)
    target[RATE : 2 * RATE] *= 0.03
    target[2 * RATE : round(2.5 * RATE)] *= 1e-5
    output = target + sine(seconds, 60)
    assert loudness_error(output, target, RATE) == pytest.approx(lufs(output) - lufs(target), abs=1e-6)


@pytest.mark.parametrize("rate", [44100, 96000])
def test_loudness_weighs_frequencies_alike_at_every_rate(rate):
    time = np.arange(2 * rate) / rate
    deep, high = (0.5 * np.sin(2 * np.pi * hz * time) for hz in (50, 4000))
    expected = lufs(sine(2, 4000)) - lufs(sine(2, 50))
    assert loudness_error(high, deep, rate) == pytest.approx(expected, abs=0.02)


def test_halved_peaks_change_the_crest_by_6_db_less_what_they_carried():
    target, output = sine(3, 100, 0.1), sine(3, 100, 0.1)
    target[RATE // 2 :: RATE] = 0.8
    output[RATE // 2 :: RATE] = 0.4
    rms = [math.sqrt(0.005 + peak**2 / RATE) for peak in (0.8, 0.4)]  # the sine is 0 there
    expected = 20 * math.log10((0.8 / rms[0]) / (0.4 / rms[1]))
    assert crest_error(output, target, RATE) == pytest.approx(expected, abs=1e-6)


def test_crest_is_that_of_windows_of_a_second_and_leaves_silence_out():
    """A sine against a square wave of the same level: sqrt(2); one second of three counts as it differs."""
    target = sine(4, 100)
    output = target.copy()
    output[RATE : 2 * RATE] = np.where(target[RATE : 2 * RATE] >= 0, 1, -1)
    target[3 * RATE :] *= 1e-4
    output[3 * RATE :] = 1.0
    assert crest_error(output, target, RATE) == pytest.approx(20 * math.log10(math.sqrt(2)) / 3, abs=1e-6)


def test_envelope_error_is_the_rms_of_a_gain_that_moves():
    """Gains of 0, 3, -6 dB for equal times, and a pause that does not count."""
    target = sine(4, 1000)
    target[3 * RATE :] *= 1e-4
    gain_db = np.repeat([0.0, 3.0, -6.0, 40.0], RATE)
    error = envelope_error(10 ** (gain_db / 20) * target, target, RATE)
    assert error == pytest.approx(math.sqrt((3**2 + 6**2) / 3), abs=1e-9)


def test_an_envelope_that_drops_out_is_60_db_low():
    target = sine(2, 1000)
    output = np.where(np.arange(2 * RATE) < RATE, target, 0)
    assert envelope_error(output, target, RATE) == pytest.approx(60 / math.sqrt(2), abs=1e-9)


def test_esr_over_time_adds_up_to_the_esr():
    output, target = noise(1.23, 1), noise(1.23)
    ratios = 10 ** (esr_over_time(output, target, RATE) / 10)
    starts = np.arange(0, target.size, 4800)
    energies = np.add.reduceat(target**2, starts)
    assert ratios.shape == (13,)  # the last one shorter
    expected = ((output - target) ** 2).sum() / (target**2).sum()
    assert (ratios * energies).sum() / energies.sum() == pytest.approx(expected)


def test_esr_in_a_pause_divides_by_a_hundredth_of_the_mean_power():
    target = sine(1, 1000, 1.0)
    target[RATE // 2 :] = 0
    error = 0.01 * np.where(np.arange(RATE) % 2, 1, -1)
    esr_db = esr_over_time(target + error, target, RATE, window_s=0.25)
    np.testing.assert_allclose(
        esr_db, [*[10 * math.log10(1e-4 / 0.5)] * 2, *[-40 - -20 + 6.0206] * 2], atol=1e-4
    )


def test_levels_are_those_of_rms():
    x = np.concatenate([np.ones(4800), sine(0.1, 1000, 1.0), np.zeros(4800), 0.1 * np.ones(100)])
    assert level_over_time(x, RATE) == pytest.approx([0, -3.0103, -math.inf, -20], abs=1e-4)


def test_noise_floor_is_that_of_a_pause():
    """A second of music, a second of hiss 60 dB below it."""
    recording = sine(2, 1000, 1.0)
    recording[RATE:] = 0
    recording += math.sqrt(0.5) * 1e-3 * np.where(np.arange(2 * RATE) % 2, 1, -1)
    expected = 10 * math.log10(0.5e-6 / (0.25 + 0.5e-6))
    assert noise_floor(recording, RATE) == pytest.approx(expected, abs=1e-3)


def test_noise_floor_finds_a_pause_off_the_grid_of_100_ms():
    recording = np.ones(2 * RATE)
    recording[RATE + 2400 : RATE + 7200] = 1e-7  # far below the rounding of a running sum of energies
    assert noise_floor(recording, RATE) == pytest.approx(-140 - 10 * math.log10(0.95), abs=1e-9)


def test_noise_floor_of_music_that_never_pauses_is_the_music():
    assert noise_floor(sine(2, 1000), RATE) == pytest.approx(0, abs=1e-6)


def test_noise_floor_of_digital_silence():
    recording = noise(1)
    recording[RATE // 2 : RATE // 2 + 5280] = 0
    assert noise_floor(recording, RATE) == -math.inf


def test_what_silence_has_no_answer_for():
    silence, sound = np.zeros(RATE), noise(1)
    assert np.isnan(fidelity(sound, silence, RATE)).all()
    dead = fidelity(silence, sound, RATE)
    assert np.isnan([dead.loudness_error_lu, dead.crest_error_db]).all()
    assert dead.envelope_error_db > 50
    assert dead.log_spectral_distance_db == pytest.approx(60 - 2.5, abs=0.5)  # less for log noise
    assert math.isnan(noise_floor(silence, RATE))
    assert (esr_over_time(sound, silence, RATE) == math.inf).all()
    assert np.isnan(esr_over_time(silence, silence, RATE)).all()


def test_what_is_too_short_has_no_figure():
    assert math.isnan(log_spectral_distance(np.ones(2047), np.ones(2047)))
    assert log_spectral_distance(np.ones(2048), np.ones(2048)) == 0
    assert math.isnan(loudness_error(noise(0.3999), noise(0.3999), RATE))
    assert loudness_error(noise(0.4), noise(0.4), RATE) == 0
    assert math.isnan(noise_floor(noise(0.0999), RATE))
    assert crest_error(np.ones(1), np.ones(1), RATE) == envelope_error(np.ones(1), np.ones(1), RATE) == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_output_that_diverged_has_no_figure(bad):
    output, target = noise(1), noise(1)
    output[RATE // 2 :] = bad
    assert np.isnan(fidelity(output, target, RATE)).all()
    esr_db = esr_over_time(output, target, RATE)
    assert (esr_db[:5] == -math.inf).all()
    assert not (esr_db[5:] < math.inf).any()


@pytest.mark.parametrize("shape", [(99,), (1, 100), (0,)])
@pytest.mark.parametrize("measure", [fidelity, esr_over_time])
def test_arrays_that_do_not_match_are_named(measure, shape):
    with pytest.raises(ValueError, match=r"output \(.*\) and target \(100,\) must be \[T\]"):
        measure(np.zeros(shape), np.zeros(100), RATE)


def test_windows_without_a_sample_are_refused():
    with pytest.raises(ValueError, match=r"a window of 1e-06 s at 48000 Hz holds no sample"):
        esr_over_time(np.ones(10), np.ones(10), RATE, window_s=1e-6)
    with pytest.raises(ValueError, match=r"a recording of shape \(0,\) must be \[T\]"):
        level_over_time(np.ones(0), RATE)

"""The dry signal is a performance: levels, rests and noise as promised, and the same samples everywhere."""

import hashlib

import numpy as np
import pytest

from klann_lightning.data import signals
from klann_lightning.data.signals import PASSAGE_SECONDS, PEAK, dry_signal, round_to_24_bit
from klann_lightning.errors import ConfigError

RATE = 44100
GOLDEN = "a9f36b8621f8ef09762a4b8117037f38fb422f8926448037d90d47b9c4576976"


@pytest.fixture(scope="module")
def minute() -> np.ndarray:
    return dry_signal(60, RATE, 1)


def peaks_db(x: np.ndarray, sample_rate: int) -> np.ndarray:
    """Peak of each passage against the loudest allowed one."""
    passages = x.reshape(-1, round(PASSAGE_SECONDS * sample_rate))
    return 20 * np.log10(np.abs(passages).max(axis=1) / PEAK)


def frames(x: np.ndarray, seconds: float) -> np.ndarray:
    size = round(seconds * RATE)
    return x[: len(x) // size * size].reshape(-1, size)


def test_same_seed_gives_the_same_samples_on_every_machine():
    x = dry_signal(4, RATE, 1)
    assert hashlib.sha256((x * 2**23).astype("<i4").tobytes()).hexdigest() == GOLDEN


def test_samples_are_24_bit_values_that_float32_holds(minute):
    steps = minute * 2**23
    np.testing.assert_array_equal(steps, np.round(steps))
    np.testing.assert_array_equal(minute, minute.astype(np.float32))
    assert np.abs(minute).max() <= 1


def test_rounding_swallows_last_bit_differences():
    x = dry_signal(2, RATE, 1)
    np.testing.assert_array_equal(round_to_24_bit(x * (1 + 1e-15)), x)
    assert np.abs(round_to_24_bit(x + 0.3e-7) - x).max() == 0
    assert np.abs(round_to_24_bit(x + 0.9e-7) - x).min() == 2**-23


def test_seeds_give_unrelated_signals():
    a, b = dry_signal(20, RATE, 1), dry_signal(20, RATE, 2)
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.05


@pytest.mark.parametrize("sample_rate", [8000, 44100, 48000, 96000])
def test_level_changes_every_five_seconds_and_covers_30_db(sample_rate):
    peaks = peaks_db(dry_signal(40, sample_rate, 3), sample_rate)
    assert (peaks < 0.01).all()
    assert (peaks > -30.1).all()
    assert np.abs(np.diff(peaks)).min() > 0.01
    # Four passages in a row have one level in each quarter of the range.
    for four in peaks.reshape(-1, 4):
        assert sorted(np.floor(-four / 7.5)) == [0, 1, 2, 3]


def test_a_tenth_to_a_fifth_of_the_time_is_silent(minute):
    assert 0.1 < np.mean(np.abs(frames(minute, 0.01)).max(axis=1) == 0) < 0.2
    # In every passage, so that any excerpt holds some.
    for passage in frames(minute, PASSAGE_SECONDS):
        assert 0.05 < np.mean(np.abs(frames(passage, 0.01)).max(axis=1) < 1e-5) < 0.35


def test_about_a_tenth_of_the_time_is_noise(minute):
    loud = frames(minute, 0.02)
    loud = loud[np.sqrt(np.mean(loud**2, axis=1)) > 1e-4]
    power = np.abs(np.fft.rfft(loud * np.hanning(loud.shape[1]))) ** 2
    band = power[:, 4:100]  # 200 Hz to 5 kHz
    flatness = np.exp(np.log(band).mean(axis=1)) / band.mean(axis=1)
    share = np.mean(flatness > 0.4) * len(loud) / len(frames(minute, 0.02))
    assert 0.05 < share < 0.15


def test_dynamics_are_those_of_a_dry_guitar(minute):
    passages = frames(minute, PASSAGE_SECONDS)
    rms = np.sqrt(np.mean(passages**2, axis=1))
    crest_db = 20 * np.log10(np.abs(passages).max(axis=1) / rms)
    assert ((crest_db > 10) & (crest_db < 22)).all()
    assert (np.abs(passages.mean(axis=1)) < 0.02 * rms).all()  # strings hold no DC


@pytest.mark.parametrize("sample_rate", [44100, 48000])
@pytest.mark.parametrize("hz", [55.0, 220.0, 622.25])
def test_strings_are_in_tune(hz, sample_rate):
    rng = np.random.Generator(np.random.PCG64(0))
    note = signals._pluck(rng, hz, 2.0, 4.0, sample_rate)
    spectrum = np.abs(np.fft.rfft(note * np.hanning(len(note)), 8 * len(note)))
    near = slice(*(round(hz * factor * 16) for factor in (0.9, 1.1)))  # bins are 1/16 Hz wide
    played = (near.start + spectrum[near].argmax()) / 16
    assert abs(1200 * np.log2(played / hz)) < 3


def test_strings_fall_by_60_db_in_the_decay_asked_for():
    rng = np.random.Generator(np.random.PCG64(0))
    hz = 110.0
    note = signals._pluck(rng, hz, 2.0, 2.0, RATE)
    carrier = np.exp(-2j * np.pi * hz * np.arange(len(note)) / RATE)  # the fundamental, overtones fall faster
    levels = [abs(np.mean((note * carrier)[round(t * RATE) :][: RATE // 10])) for t in (0.2, 1.2)]
    assert 20 * np.log10(levels[0] / levels[1]) == pytest.approx(30, abs=3)


@pytest.mark.parametrize(("seconds", "sample_rate"), [(0.5, 44100), (7.3, 48000), (21, 22050)])
def test_any_length_can_be_asked_for(seconds, sample_rate):
    assert dry_signal(seconds, sample_rate, 0).shape == (round(seconds * sample_rate),)


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_no_time_is_refused(seconds):
    with pytest.raises(ConfigError, match=r"a signal of .* s at 44100 Hz holds no sample"):
        dry_signal(seconds, RATE, 0)


def test_a_low_sample_rate_is_refused():
    with pytest.raises(ConfigError, match="4000 Hz is too low: use 8000 Hz or more"):
        dry_signal(1, 4000, 0)

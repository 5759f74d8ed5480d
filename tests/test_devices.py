"""The simulated devices do what the real ones are known for, and look at nothing that is still to come."""

import hashlib

import numpy as np
import pytest
from scipy.integrate import quad

from klann_lightning.data import devices
from klann_lightning.data.devices import DEVICES, fuzz, optical_compressor, simulate
from klann_lightning.data.signals import dry_signal
from klann_lightning.errors import ConfigError

RATE = 44100
GOLDEN = {
    "fuzz": "c8178678160f6f97688547aec8e8a536f0f105979596e323297e963318aeff76",
    "compressor": "8645c04e848c721e86c600c30fd6a0680878f9b81d8d6cdea13cbea531825d4f",
}
each_device = pytest.mark.parametrize("device", DEVICES)


def tone(seconds: float, amplitude: float, hz: float = 220.0, sample_rate: int = RATE) -> np.ndarray:
    return amplitude * np.sin(2 * np.pi * hz * np.arange(round(seconds * sample_rate)) / sample_rate)


def rms_db(x: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(x**2)))


# Both


@each_device
def test_same_seed_gives_the_same_samples_on_every_machine(device):
    _, target = simulate(device, 4, RATE, 1)
    assert hashlib.sha256((target * 2.0**23).astype("<i4").tobytes()).hexdigest() == GOLDEN[device]


@each_device
@pytest.mark.parametrize("sample_rate", [8000, 48000])
def test_input_and_target_are_24_bit_float32_below_full_scale(device, sample_rate):
    x, target = simulate(device, 20, sample_rate, 7)
    np.testing.assert_array_equal(x, dry_signal(20, sample_rate, 7))
    assert x.dtype == target.dtype == np.float32
    assert x.shape == target.shape == (20 * sample_rate,)
    np.testing.assert_array_equal(target * 2.0**23, np.round(target * 2.0**23))
    assert 0.3 < np.abs(target).max() < 1


@each_device
def test_no_input_within_full_scale_clips_the_target(device):
    rng = np.random.default_rng(0)
    square = np.sign(tone(2, 1.0, hz=30))
    step = np.concatenate([np.zeros(RATE), np.ones(RATE), -np.ones(RATE)])
    for x in (square, step, -step, rng.uniform(-1, 1, 2 * RATE), tone(2, 1.0, hz=3000)):
        assert np.abs(DEVICES[device](x, RATE)).max() < 1


@each_device
@pytest.mark.parametrize("cut", [1, 20_015, 60_031])  # not where the compressor's blocks of 32 begin
def test_the_future_does_not_change_the_past(device, cut):
    x = dry_signal(2, RATE, 1)
    other = x.copy()
    other[cut:] = np.random.default_rng(0).uniform(-1, 1, len(x) - cut)
    before, after = DEVICES[device](x, RATE), DEVICES[device](other, RATE)
    np.testing.assert_array_equal(before[:cut], after[:cut])
    np.testing.assert_array_equal(before[:cut], DEVICES[device](x[:cut], RATE))
    assert (before[cut:] != after[cut:]).any()


@each_device
def test_silence_stays_silence(device):
    assert not DEVICES[device](np.zeros(1000), RATE).any()


@each_device
@pytest.mark.parametrize("seed", [0, 1])
def test_there_is_something_to_learn(device, seed):
    x, target = (signal.astype(np.float64) for signal in simulate(device, 60, RATE, seed))
    gain = x @ target / (x @ x)
    esr_db = 10 * np.log10(np.sum((target - gain * x) ** 2) / np.sum(target**2))
    lowest, highest = {"fuzz": (-6, -2), "compressor": (-14, -8)}[device]
    assert lowest < esr_db < highest


def test_unknown_device_is_named_with_those_that_exist():
    with pytest.raises(ConfigError, match=r"'la2a'.*fuzz, compressor"):
        simulate("la2a", 1, RATE, 0)


# Fuzz


def harmonics(y: np.ndarray, hz: float, count: int) -> np.ndarray:
    """Amplitudes of the harmonics 0 (DC) to `count` of a steady tone, from its last second."""
    spectrum = np.abs(np.fft.rfft(y[-RATE:])) / (RATE / 2)
    return spectrum[: round(hz) * (count + 1) : round(hz)]


@pytest.mark.parametrize("amplitude", [0.02, 0.1, 0.5])
def test_fuzz_makes_even_harmonics_but_no_dc(amplitude):
    dc, first, second = harmonics(fuzz(tone(4, amplitude), RATE), 220, 2)
    assert second > 0.03 * first
    assert dc < 1e-4 * first


def test_fuzz_distorts_loud_notes_far_more_than_quiet_ones():
    def distortion(amplitude: float) -> float:
        _, first, *rest = harmonics(fuzz(tone(4, amplitude), RATE), 220, 8)
        return float(np.linalg.norm(rest) / first)

    assert distortion(0.003) < 0.03
    assert distortion(0.3) > 0.3


@pytest.mark.parametrize("sample_rate", [22050, 44100, 96000])
def test_fuzz_gates_a_quiet_note_after_a_loud_passage_and_recovers(sample_rate):
    def level_after(wait: float, loud: float) -> float:
        gap = np.zeros(round(wait * sample_rate))
        note = tone(0.1, 0.01, sample_rate=sample_rate)
        x = np.concatenate([tone(2, loud, sample_rate=sample_rate), gap, note])
        return rms_db(fuzz(x, sample_rate)[-len(note) // 2 :])

    gated = [level_after(wait, 0.5) - level_after(wait, 0.0) for wait in (0.05, 0.3, 1.0, 3.0)]
    assert gated[0] < -6
    assert gated[1] == pytest.approx(gated[0] / 2, abs=3)  # the bias is slow: much of it is left after 0.3 s
    assert gated[2] > -2
    assert abs(gated[3]) < 0.1


def test_clipper_is_the_mean_of_its_curve_between_samples():
    w = np.array([0.3, -0.2, 1.7, 1.700001, -4.0, -4.0])
    curve = [quad(lambda v: v / np.sqrt(1 + v**2), a, b)[0] / (b - a) for a, b in [(0.1, 0.3), (0.3, -0.2)]]
    clipped = devices._clip(w, 0.1)
    np.testing.assert_allclose(clipped[:2], curve, atol=1e-12)
    np.testing.assert_allclose(clipped[[3, 5]], (w / np.sqrt(1 + w**2))[[3, 5]], atol=1e-6)


# Compressor


def reduction_db(x: np.ndarray, sample_rate: int = RATE) -> np.ndarray:
    """Gain reduction of each 20 ms, in dB: input level plus make-up gain, less output level."""
    size = sample_rate // 50
    y = optical_compressor(x, sample_rate)
    levels = [np.mean(s[: len(x) // size * size].reshape(-1, size) ** 2, axis=1) for s in (x, y)]
    return 20 * np.log10(devices.MAKE_UP) + 10 * np.log10(levels[0] / levels[1])


def recovery_db(exposure: float, sample_rate: int = RATE) -> np.ndarray:
    """Gain reduction in 20 ms frames from the end of a loud tone on, read by a tone too quiet to matter."""
    loud = tone(exposure, 0.5, 1000, sample_rate)
    probe = tone(8, 1e-4, 1000, sample_rate)
    return reduction_db(np.concatenate([loud, probe]), sample_rate)[round(exposure * 50) :]


def test_compression_curve_flattens():
    levels_db = np.arange(-60, -3, 6)
    out_db = np.array([rms_db(optical_compressor(tone(6, 10 ** (v / 20)), RATE)[-RATE:]) for v in levels_db])
    slope = np.diff(out_db) / np.diff(levels_db)
    assert slope[0] > 0.95
    assert (np.diff(slope) < 0).all()
    assert 0.3 < slope[-1] < 0.45  # towards 3 : 1
    assert out_db[-1] > out_db[-3]


def test_loud_passages_are_turned_down_by_3_to_12_db_and_quiet_ones_hardly():
    passages = dry_signal(40, RATE, 1).reshape(8, -1)
    peaks_db = 20 * np.log10(np.abs(passages).max(axis=1))
    for passage, peak_db in zip(passages, peaks_db, strict=True):
        size = RATE // 50
        played = np.sqrt(np.mean(passage.reshape(-1, size) ** 2, axis=1))
        reduction = reduction_db(passage + 1e-9)[played > 0.1 * played.max()]
        if peak_db > -8.4:
            assert 3 < np.median(reduction) < 12
        if peak_db < -23.4:
            assert np.median(reduction) < 1.5


def test_attack_takes_some_ten_milliseconds():
    gains_db = -20 * np.log10(np.abs(optical_compressor(np.ones(RATE) * 0.1, RATE)) / 0.2)
    at = {ms: gains_db[round(ms * RATE / 1000)] for ms in (1, 10, 100)}
    assert at[1] < 0.25 * at[100]
    assert 0.5 * at[100] < at[10] < 0.98 * at[100]


def test_release_depends_on_how_long_it_was_loud():
    def seconds_until(recovered: float, curve: np.ndarray) -> float:
        return float(np.argmax(curve < (1 - recovered) * curve[0]) / 50)

    short, long = recovery_db(0.1), recovery_db(5.0)
    assert short[0] > 5
    assert long[0] > 5
    assert seconds_until(0.5, short) < 0.15
    assert seconds_until(0.9, short) < 1.0
    assert seconds_until(0.5, long) > 2 * seconds_until(0.5, short)
    assert seconds_until(0.9, long) > 3 * seconds_until(0.9, short)


def test_after_long_exposure_recovery_goes_on_for_seconds():
    curve = recovery_db(5.0)
    assert (np.diff(curve) < 1e-3).all()
    assert curve[50] > 1.5  # 1 s later
    assert curve[50] - curve[100] > 0.5
    assert curve[-1] < 0.2


@pytest.mark.parametrize("sample_rate", [8000, 48000, 96000])
def test_time_constants_are_seconds_at_every_rate(sample_rate):
    np.testing.assert_allclose(recovery_db(1.0, sample_rate), recovery_db(1.0), atol=0.3)

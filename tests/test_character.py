"""What the doctor says of a device, against effects that are known and filters that are fitted otherwise."""

import numpy as np
import pytest
from effects import CLASS_OF, EFFECTS, eq, fuzz, of_class, room, softclip, tremolo
from scipy.linalg import toeplitz
from scipy.signal import fftconvolve, lfilter

from klann_lightning.data.audio import read_audio
from klann_lightning.data.signals import dry_signal
from klann_lightning.doctor.character import characterise, findings_of
from klann_lightning.doctor.findings import worst
from klann_lightning.doctor.intake import inspect
from klann_lightning.doctor.linear import esr_best_gain, long_filter, short_filter
from klann_lightning.doctor.material import Material, material_of

RATE = 44100
ENOUGH = Material(60.0, 50.0, 40.0, 20000.0)
KIND_OF = {
    "clean": "clean",
    "linear": "linear",
    "light": "distortion",
    "heavy": "distortion",
    "dynamics": "compressor",
    "modulation": "modulation",
    "reverb": "reverb",
}
REAL = {"facebender-rndamp": "distortion", "la2a": "compressor", "mcomp-rndamp-A1msR1000ms": "compressor"}


@pytest.fixture(scope="module")
def dry():
    return dry_signal(12, RATE, 0)


def db(ratio):
    return 10 * np.log10(ratio + 1e-30)


def test_the_best_gain_is_that_of_least_squares(dry):
    wet = softclip(dry, RATE)
    gain = np.linalg.lstsq(dry[:, None], wet, rcond=None)[0][0]
    expected = np.square(wet - gain * dry).sum() / np.square(wet).sum()
    assert esr_best_gain(dry, wet) == pytest.approx(expected, rel=1e-9)
    assert esr_best_gain(dry, -3 * dry) < 1e-25
    assert np.isnan(esr_best_gain(dry, np.zeros_like(dry)))


@pytest.mark.parametrize("name", of_class("linear"))
def test_a_filter_is_found_to_be_one(dry, name):
    assert db(short_filter(dry, EFFECTS[name](dry, RATE)).esr) < -60


def test_the_best_filter_is_that_of_least_squares():
    rng = np.random.default_rng(0)
    x = rng.standard_normal(1 << 15)
    y = np.tanh(lfilter([0.5, 1, -0.3], [1], x))
    rows = toeplitz(x[:], np.zeros(8))[64:]
    taps = np.linalg.lstsq(rows, y[64:], rcond=None)[0]
    expected = np.square(y[64:] - rows @ taps).sum() / np.square(y[64:]).sum()
    fit = short_filter(x, y, 8, 56)
    assert abs(db(fit.esr) - db(expected)) < 0.1
    assert np.abs(fit.taps[8:16] - taps).max() < 0.02


def test_noise_is_not_fitted():
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((2, 1 << 16))
    assert short_filter(x, y).esr > 0.99


def test_a_filter_survives_short_and_silent_recordings():
    x = np.random.default_rng(2).standard_normal(1 << 12)
    assert db(short_filter(x, 0.5 * x).esr) < -100
    assert np.isnan(short_filter(x, np.zeros_like(x)).esr)
    assert short_filter(np.zeros_like(x), x).esr == pytest.approx(1)


def test_a_long_filter_finds_a_room_and_no_room_in_a_fuzz(dry):
    wet = 0.7 * dry + 0.4 * fftconvolve(dry, room(1.0, RATE))[: len(dry)]
    long = long_filter(dry, wet, short_filter(dry, wet), RATE)
    assert long.esr < 0.5 * long.esr_short
    wet = fuzz(dry, RATE)
    long = long_filter(dry, wet, short_filter(dry, wet), RATE)
    assert long.esr > 0.9 * long.esr_short


@pytest.mark.parametrize(
    "name", ["gain", "cabinet", "overdrive", "fuzz", "limiter", "tremolo", "chorus", "echo"]
)
def test_kinds(dry, name):
    character = characterise(dry, EFFECTS[name](dry, RATE), RATE)
    assert character.kind == KIND_OF[CLASS_OF[name]], character.kind_evidence


@pytest.mark.parametrize("name", ["eq", "diode", "comp"])
def test_kinds_under_noise(dry, name):
    """The target has a noise of -50 dB of its own."""
    wet = EFFECTS[name](dry, RATE)
    noise = np.random.default_rng(0).standard_normal(len(dry)) * np.sqrt(1e-5 * np.square(wet).mean())
    character = characterise(dry, wet + noise, RATE)
    assert character.kind == KIND_OF[CLASS_OF[name]], character.kind_evidence


@pytest.mark.parametrize("device", REAL)
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_real_recordings_have_their_kind_and_no_alarm(recordings, split, device):
    paths = [recordings / split / f"{device}-{side}.wav" for side in ("input", "target")]
    x, y = (read_audio(path).astype(float) for path in paths)
    character = characterise(x, y, RATE)
    assert character.kind == REAL[device], character.kind_evidence
    track, _ = inspect(paths[0], "input")
    found = findings_of(character, material_of(track, x))
    assert worst(found) in (None, "note"), found


def test_findings_name_what_follows(dry):
    def names(wet):
        character = characterise(dry, wet, RATE)
        return {finding.name: finding for finding in findings_of(character, ENOUGH)}

    assert "nothing_to_learn" in names(-0.5 * dry)
    assert "linear_device" in names(eq(dry, RATE))
    assert names(tremolo(dry, RATE))["modulation"].severity == "harms"
    wet = softclip(dry, RATE)
    noisy = wet + np.random.default_rng(0).standard_normal(len(wet)) * np.sqrt(0.01 * np.square(wet).mean())
    assert names(noisy)["noisy_target"].evidence.startswith(("-19.", "-20.", "-21."))


@pytest.mark.parametrize("samples", [0, 1, 100, 20000])
def test_what_is_too_short_or_silent_is_not_told(samples):
    x = 0.1 * np.random.default_rng(0).standard_normal(samples)
    for pair in ((x, np.zeros_like(x)), (np.zeros_like(x), x)):
        character = characterise(*pair, RATE)
        assert (character.kind, character.kind_evidence) == ("unknown", "The recording is silent.")
        assert findings_of(character, ENOUGH) == []
    told = characterise(x, np.tanh(9 * x), RATE)
    assert told.kind == ("distortion" if samples == 20000 else "unknown")
    if samples in (1, 100):
        assert told.kind_evidence == f"{samples} samples are too few to tell."
    assert findings_of(told, ENOUGH) == []


def test_lengths_must_agree():
    with pytest.raises(ValueError, match=r"input \(3,\) and target \(4,\) must be \[T\], alike"):
        characterise(np.zeros(3), np.zeros(4), RATE)

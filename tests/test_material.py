"""Whether an input exercises a device."""

import numpy as np
import pytest
from scipy.signal import butter, sosfilt

from klann_lightning.data.audio import write_audio
from klann_lightning.data.signals import dry_signal
from klann_lightning.doctor.blocks import typical_error
from klann_lightning.doctor.intake import inspect
from klann_lightning.doctor.material import material_findings, material_of

RATE = 44100


@pytest.fixture
def material(tmp_path):
    def of(x):
        write_audio(tmp_path / "x.wav", x, RATE)
        track, _ = inspect(tmp_path / "x.wav", "input")
        return material_of(track, x)

    return of


@pytest.fixture
def names(material):
    return lambda x: {finding.name: finding.severity for finding in material_findings(material(x))}


def test_varied_playing_is_enough(names):
    assert names(dry_signal(30, RATE, 0)) == {}


def test_a_steady_tone_is_not(names):
    found = names(0.5 * np.sin(2 * np.pi * 440 * np.arange(30 * RATE) / RATE))
    assert found == {"narrow_level_range": "harms", "narrow_band": "note"}


@pytest.mark.parametrize("hz", [1000, 2000, 4000])
def test_bandwidth(hz, material, names):
    noise = np.random.default_rng(0).standard_normal(5 * RATE)
    low = sosfilt(butter(20, hz, fs=RATE, output="sos"), noise)
    assert hz < material(low).bandwidth_hz < 1.8 * hz
    assert ("narrow_band" in names(low)) == (hz < 4000)  # the 4 kHz low-pass falls by 80 dB at 6.3 kHz


@pytest.mark.parametrize(("seconds", "severity"), [(5, "note"), (0.5, "harms")])
def test_little_material(seconds, severity, names):
    assert names(dry_signal(30, RATE, 0)[: int(seconds * RATE)])["little_material"] == severity


def test_level_range(material):
    noise = np.random.default_rng(0).standard_normal(20 * RATE)
    noise[10 * RATE :] *= 0.1
    assert material(noise).level_range_db == pytest.approx(20, abs=1)


def test_silence(material, names):
    assert material(np.zeros(RATE)) == (1.0, 0.0, 0.0, 0.0)
    assert names(np.zeros(RATE)) == {"little_material": "harms"}


def test_a_typical_error_is_that_of_loud_blocks_and_of_most_of_them():
    wanted = np.repeat([1.0, 0.1], 30 * 1024)
    error = 0.1 * wanted
    error[:1024] = 50  # one of thirty
    error[40 * 1024 :] = 1  # quiet ones
    assert typical_error(error, wanted, wanted) == pytest.approx(0.01)
    assert np.isnan(typical_error(error, 0 * wanted, wanted))

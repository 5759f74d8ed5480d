"""What is known of a pair is asked once, and again where a file has changed."""

import os

import numpy as np
import pytest

from klann_lightning.data.audio import write_audio
from klann_lightning.data.signals import dry_signal
from klann_lightning.doctor import verdict as module
from klann_lightning.doctor.diagnose import diagnose
from klann_lightning.doctor.verdict import verdict

RATE = 44100


def late(folder):
    """2 s, 99 samples late, 41 samples of the target lost at the end."""
    dry = dry_signal(2, RATE, 0)
    paths = folder / "x.wav", folder / "y.wav"
    write_audio(paths[0], dry, RATE)
    write_audio(paths[1], np.tanh(2 * np.append(np.zeros(99), dry))[: len(dry) - 41], RATE)
    return paths


@pytest.fixture
def pair(tmp_path, monkeypatch):
    """Nothing is cached yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    module._verdict.cache_clear()
    return late(tmp_path)


@pytest.fixture(scope="module")
def diagnosis(tmp_path_factory):
    """Of such a pair, for what costs a second and is not asked about."""
    folder = tmp_path_factory.mktemp("known")
    return diagnose(*late(folder), device=False)


@pytest.fixture
def asked(diagnosis, monkeypatch):
    """Every pair is said to be that one; how often it was asked."""
    asked = []
    monkeypatch.setattr(module, "diagnose", lambda *_, **__: asked.append(1) or diagnosis)
    return asked


def forget():
    """As a new process."""
    module._verdict.cache_clear()


def test_a_verdict_is_kept(pair, monkeypatch):
    first = verdict(*pair)
    assert abs(first.found.delay - 99) < 0.1
    assert {finding.name for finding in first.findings} >= {"delay", "lengths_differ"}
    forget()
    monkeypatch.setattr(module, "diagnose", None)
    assert verdict(*pair) == first


def test_a_changed_file_is_judged_anew(pair, asked, monkeypatch):
    verdict(*pair)
    forget()
    write_audio(pair[1], np.tanh(dry_signal(2, RATE, 0)), RATE)
    monkeypatch.setattr(module, "diagnose", diagnose)
    assert "delay" not in {finding.name for finding in verdict(*pair).findings}


def test_another_doctor_judges_anew(pair, asked, monkeypatch):
    verdict(*pair)
    forget()
    monkeypatch.setattr(module, "_doctor", lambda: "another")
    verdict(*pair)
    assert len(asked) == 2


def test_a_damaged_cache_is_no_obstacle(pair, tmp_path, asked):
    first = verdict(*pair)
    (file,) = (tmp_path / "cache").rglob("*.json")
    whole = file.read_text()
    for number, damage in enumerate(("[]", '{"findings": 3}', whole[:-40])):
        file.write_text(damage)
        forget()
        assert verdict(*pair) == first
        assert len(asked) == 2 + number
        assert file.read_text() == whole


@pytest.mark.parametrize("place", ["file", None])
def test_no_cache_is_no_obstacle(pair, tmp_path, asked, monkeypatch, place):
    """Where it would lie below a file, and for a user without a home."""
    (tmp_path / "file").touch()

    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(module.Path, "home", no_home)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / place) if place else "")
    assert abs(verdict(*pair).found.delay - 99) < 0.1
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".wav"] == ["file"]


def test_old_ones_go(pair, tmp_path, asked, monkeypatch):
    monkeypatch.setattr(module, "MOST_KEPT", 2)
    kept = []
    for changed in range(3):
        os.utime(pair[1], ns=(changed, changed))
        forget()
        for number, file in enumerate(kept):
            os.utime(file, (number, number))
        verdict(*pair)
        kept += [file for file in (tmp_path / "cache").rglob("*.json") if file not in kept]
    assert set((tmp_path / "cache").rglob("*.json")) == set(kept[1:])

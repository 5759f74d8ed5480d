"""What is known of a pair is asked once, and again where a file has changed."""

import numpy as np
import pytest

from klann_lightning.data.audio import write_audio
from klann_lightning.data.signals import dry_signal
from klann_lightning.doctor import verdict as module
from klann_lightning.doctor.verdict import verdict

RATE = 44100


@pytest.fixture
def pair(tmp_path, monkeypatch):
    """2 s, 41 samples of the target lost at the end; nothing is cached yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    module._verdict.cache_clear()
    dry = dry_signal(2, RATE, 0)
    paths = tmp_path / "x.wav", tmp_path / "y.wav"
    write_audio(paths[0], dry, RATE)
    write_audio(paths[1], np.tanh(2 * np.append(np.zeros(99), dry))[: len(dry) - 41], RATE)
    return paths


def forget():
    """As a new process."""
    module._verdict.cache_clear()


def no_diagnosis(*_, **__):
    raise AssertionError("asked again")


def test_a_verdict_is_kept(pair, monkeypatch):
    first = verdict(*pair)
    assert first.found is not None
    assert abs(first.found.delay - 99) < 0.1
    assert {finding.name for finding in first.findings} >= {"delay", "lengths_differ"}
    forget()
    monkeypatch.setattr(module, "diagnose", no_diagnosis)
    assert verdict(*pair) == first


def test_a_changed_file_is_judged_anew(pair, monkeypatch):
    verdict(*pair)
    forget()
    write_audio(pair[1], np.tanh(dry_signal(2, RATE, 0)), RATE)
    assert "delay" not in {finding.name for finding in verdict(*pair).findings}


def test_a_damaged_cache_is_no_obstacle(pair, tmp_path):
    first = verdict(*pair)
    for file in (tmp_path / "cache").rglob("*.json"):
        for damage in ("[]", '{"findings": 3}', file.read_text()[:-40]):
            file.write_text(damage)
            forget()
            assert verdict(*pair) == first


def test_no_cache_is_no_obstacle(pair, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert verdict(*pair).found is not None


def test_old_ones_go(pair, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_KEPT", 2)
    for delay in range(3):
        write_audio(pair[1], np.append(np.zeros(delay), dry_signal(2, RATE, 0))[: 2 * RATE], RATE)
        forget()
        verdict(*pair)
    assert len(list((tmp_path / "cache").rglob("*.json"))) == 2

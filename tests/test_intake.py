"""Every kind of damaged or odd file ends in its named finding; what is measured of a good one is exact."""

import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
from damaged import CASES, FINE, HARMED, RATE, UNUSABLE, Case, noisy, sound, wav, with_holes, with_silent_bits

from klann_lightning.data import audio
from klann_lightning.data.audio import write_audio
from klann_lightning.data.devices import DEVICES, simulate
from klann_lightning.doctor import intake
from klann_lightning.doctor.findings import SEVERITIES, worst
from klann_lightning.doctor.intake import inspect
from klann_lightning.doctor.samples import find_gaps
from klann_lightning.doctor.track import Track

FUZZ_SECONDS = float(os.environ.get("KLANN_FUZZ_SECONDS", "5"))


def track_of(path: Path) -> Track:
    track, _ = inspect(path, "input")
    assert track is not None
    return track


def names(path: Path, side: str = "input") -> dict[str, str]:
    return {finding.name: finding.severity for finding in inspect(path, side)[1]}


# The corpus


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_kind_of_file_ends_in_its_findings(case: Case, tmp_path):
    path = case.make(tmp_path)
    track, findings = inspect(path, case.side)
    assert {finding.name: finding.severity for finding in findings} == case.expected
    assert track is not None or [finding.severity for finding in findings] == ["blocks"]
    for finding in findings:
        assert finding.severity in SEVERITIES
        assert (
            path.name.encode(errors="surrogateescape").decode(errors="backslashreplace") in finding.evidence
        )
        assert finding.cure.endswith(".")
        assert finding.evidence.endswith(".")


def test_the_corpus_is_large_enough():
    assert len({case.name for case in CASES}) == len(CASES)
    assert len(UNUSABLE) >= 40
    assert len(HARMED) >= 40
    assert len(FINE) >= 30


def test_a_file_that_must_not_be_read(tmp_path, monkeypatch):
    def refuse(path: Path) -> tuple[int, int]:
        raise PermissionError(13, "Permission denied")

    path = wav(sound())(tmp_path)
    monkeypatch.setattr(audio, "audio_bytes", refuse)  # whoever runs this may be allowed everything
    assert names(path) == {"no_permission": "blocks"}


def test_a_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "x.wav")
    script = "from klann_lightning.doctor.intake import inspect; from pathlib import Path; "
    script += f"print(inspect(Path({str(tmp_path / 'x.wav')!r}), 'input')[1][0].name)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "special_file"


# No false alarm


def test_the_clean_recordings_are_clean(recordings):
    files = [
        path for split in ("train", "val", "test") for path in sorted((recordings / split).glob("*.wav"))
    ]
    assert files
    for path in files:
        for side in ("input", "target"):
            assert names(path, side) == {}, path.name


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        ("ts9_tubescreamer", {"low_resolution": "note"}),  # both are stored in half-precision numbers
        ("openamp_rat_0", {}),
        ("lextac_low", {"equal_channels": "note"}),
    ],
)
def test_the_faulty_pairs_hold_single_files_that_can_be_used(recordings, pair, expected):
    for side in ("input", "target"):
        assert names(recordings / "problems" / pair / f"{side}.wav", side) == expected


@pytest.mark.parametrize("rate", [44100, 96000])
@pytest.mark.parametrize("device", DEVICES)
def test_simulated_devices_are_clean(device, rate, tmp_path):
    for side, samples in zip(("input", "target"), simulate(device, 8, rate, seed=1), strict=True):
        write_audio(tmp_path / f"{side}.wav", samples, rate)
        assert names(tmp_path / f"{side}.wav", side) == {}


def test_tiny_recordings_are_clean(tiny_root):
    for path in sorted(tiny_root.rglob("*.wav")):
        assert names(path, "target" if "target" in path.name else "input") == {}


# What is measured


@pytest.mark.parametrize("bits", [3, 8, 11, 12, 13, 16, 20, 24])
@pytest.mark.parametrize("encoding", ["PCM_24", "FLOAT"])
def test_effective_bits(bits, encoding, tmp_path):
    track = track_of(wav(with_silent_bits(sound(), bits), encoding)(tmp_path))
    assert track.effective_bits == bits


def test_a_16_bit_ramp_has_16_bits(tmp_path):
    ramp = np.arange(-(2**15), 2**15).astype(np.int16)
    track = track_of(wav(ramp, "PCM_16")(tmp_path))
    assert (track.effective_bits, track.lowest, track.highest, track.peak) == (16, -1, 1 - 2**-15, 1)
    assert track.mean == -(2.0**-16)


def test_level_and_offset(tmp_path):
    x = (0.25 * np.sign(noisy()) + 0.125).astype(np.float32)
    track = track_of(wav(x)(tmp_path))
    assert track.peak == 0.375
    assert track.mean == pytest.approx(x.mean(dtype=np.float64), rel=1e-12)
    assert track.rms == pytest.approx(np.sqrt(np.mean(np.square(x, dtype=np.float64))), rel=1e-12)
    assert track.values == 2


def test_tops_count_every_sample_of_a_run(tmp_path):
    x = sound()
    x[1000:1007] = 1  # 7 + 3 + 5 samples in runs; two more stand alone
    x[5000:5003] = 1
    x[9000:9005] = -1
    x[[12000, 13000]] = 1
    track = track_of(wav(x, "FLOAT")(tmp_path))
    assert [(top.runs, top.samples, top.longest) for top in track.tops] == [(2, 10, 7), (1, 5, 5)]


@pytest.mark.parametrize("block", [441, 44100, 1 << 16])
def test_runs_and_gaps_go_on_from_block_to_block(block, tmp_path, monkeypatch):
    monkeypatch.setattr(intake, "BLOCK", block)
    x = with_holes(sound(), (440, 200), (44000, 300), (65400, 400))
    x[20000:23000] = 0.75
    track = track_of(wav(x)(tmp_path))
    assert [(gap.start, gap.length) for gap in track.gaps] == [(440, 200), (44000, 300), (65400, 400)]
    assert (track.tops[0].runs, track.tops[0].samples, track.tops[0].longest) == (1, 3000, 3000)


@pytest.mark.parametrize("rate", [1000, 2000, 8191, 11025, 44100, 192_000, 768_000])
def test_gaps_at_any_rate(rate):
    hole = max(rate // 1000, 4)
    x = with_holes(sound(), (60_000, hole)).astype(np.float32)
    assert [(gap.start, gap.length) for gap in find_gaps(x, rate)] == [(60_000, hole)]


def test_zeros_at_the_ends(tmp_path):
    x = np.concatenate([np.zeros(70_000), sound(), np.zeros(30_000)])
    x[[70_000, -30_001]] = 0.1
    track = track_of(wav(x)(tmp_path))
    assert (track.leading_zeros, track.trailing_zeros, track.frames) == (70_000, 30_000, 166_150)


@pytest.mark.parametrize("loudest", [0, 1, 2])
def test_the_loudest_channel_is_used(loudest, tmp_path):
    x = np.stack([0.3 * sound(seed=channel) for channel in range(3)], axis=1)
    x[:, loudest] *= 2
    track = track_of(wav(x)(tmp_path))
    assert (track.channel, track.channels) == (loudest, 3)
    assert track.peak == np.abs(x[:, loudest].astype(np.float32)).max()


def test_levels(tmp_path):
    """A second of noise at -80 dB, which is no sound, and three at -20 dB."""
    noise = np.random.default_rng(0).normal(size=4 * RATE)
    noise *= np.repeat([1e-4, 0.1, 0.1, 0.1], RATE)
    track = track_of(wav(noise)(tmp_path))
    assert track.level_db == pytest.approx((-80, -20), abs=0.5)
    assert track.active_share == 0.75


@pytest.mark.parametrize("hz", [5000, 9000, 16000])
def test_a_spectrum_that_ends_at_once(hz, tmp_path):
    spectrum = np.fft.rfft(noisy(4))
    spectrum[np.fft.rfftfreq(4 * RATE, 1 / RATE) > hz] *= 1e-3
    track = track_of(wav(np.fft.irfft(spectrum))(tmp_path))
    assert track.cliff is not None
    assert track.cliff.hz == pytest.approx(hz, abs=400)
    assert track.cliff.drop_db == pytest.approx(60, abs=3)


def test_white_noise_ends_nowhere(tmp_path):
    assert track_of(wav(noisy())(tmp_path)).cliff is None


def test_the_first_bad_sample_is_named(tmp_path):
    x = sound()
    x[[65_000, 66_000]] = np.nan, np.inf
    track, findings = inspect(wav(x)(tmp_path), "target")
    assert track is not None
    assert (track.not_finite, track.first_not_finite) == (2, 65_000)
    assert "2 NaN or infinite samples, the first at sample 65000 (1.474 s)" in findings[0].evidence
    assert worst(findings) == "blocks"


def test_memory_does_not_grow_with_length(tmp_path):
    with soundfile.SoundFile(tmp_path / "x.wav", "w", RATE, 1, "PCM_16") as file:
        for _ in range(40):
            file.write(sound())
    tracemalloc.start()
    assert inspect(tmp_path / "x.wav", "input")[1] == []
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8e6


# Fuzz


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_random_bytes_never_crash_or_hang(tmp_path):
    """In a process of its own. Where this fails, the file that did it is named, and still there."""
    command = [sys.executable, str(Path(__file__).with_name("fuzzed.py")), str(tmp_path), str(FUZZ_SECONDS)]
    done = subprocess.run([*command, str(os.getpid())], capture_output=True, timeout=FUZZ_SECONDS + 120)
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-3000:]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["files"] > 20 * FUZZ_SECONDS
    assert summary["slowest_s"] < 10
    assert summary["memory_mb"] < 500
    assert set(summary["ends"]) >= {"unreadable", "truncated"}

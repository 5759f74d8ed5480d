"""The `doctor` command, as its users call it."""

import json
import os

import numpy as np
import pytest
from effects import EFFECTS

from klann_lightning.cli import main
from klann_lightning.data.audio import audio_info, read_audio, write_audio
from klann_lightning.data.pairs import check_pair
from klann_lightning.data.resampling import resampled
from klann_lightning.data.signals import dry_signal
from klann_lightning.doctor import command
from klann_lightning.doctor.diagnose import diagnose
from klann_lightning.errors import ConfigError

RATE = 44100
OF_THE_DEVICE = ("nothing_to_learn", "linear_device", "modulation", "noisy_target")


@pytest.fixture(scope="module")
def sounds():
    dry = dry_signal(10.0, RATE, 7)
    return dry, EFFECTS["comp"](dry, RATE)


@pytest.fixture
def pair(tmp_path, sounds):
    """A compressor, recorded 300 samples late."""
    dry, wet = sounds
    paths = tmp_path / "amp-input.wav", tmp_path / "amp-target.wav"
    write_audio(paths[0], dry, RATE)
    write_audio(paths[1], np.concatenate([np.zeros(300), wet])[: len(dry)], RATE)
    return paths


def status(*words) -> int:
    """The exit status of `doctor`."""
    try:
        main(["doctor", *map(str, words)])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def names(diagnosis, severity=None):
    return [one.name for one in diagnosis.findings if severity in (None, one.severity)]


def test_json(pair, capsys):
    assert status(*pair, "--json") == 2
    said = json.loads(capsys.readouterr().out)
    assert abs(said["delay_samples"] - 300) < 0.1
    assert said["delay_confidence"] > 0.9
    assert (said["drift_ppm"], said["polarity"], said["kind"]) == (0, 1, "compressor")
    assert 0 <= said["esr_best_linear"] <= said["esr_best_gain"] * 1.1 < 1
    assert 0 < said["memory_seconds"] < 2
    assert {"delay"} <= {finding["name"] for finding in said["findings"]}
    assert all(set(one) == {"name", "severity", "evidence", "cure"} for one in said["findings"])
    assert {"esr_floor", "findings"} <= set(said)


def test_words(pair, capsys):
    assert status(*pair) == 2
    said = capsys.readouterr().out
    assert "blocks: delay" in said
    assert "300.0" in said
    assert "-> `doctor --fix DIR`" in said


def test_a_mended_pair_is_ready(pair, tmp_path, capsys):
    status(*pair, "--fix", tmp_path / "mended")
    mended = tmp_path / "mended" / "amp-input.wav", tmp_path / "mended" / "amp-target.wav"
    assert status(*mended) == 0
    checked = check_pair(*mended)
    assert checked.frames == audio_info(pair[0]).frames - 300
    np.testing.assert_array_equal(read_audio(mended[1]), read_audio(pair[1], 300))


def test_a_folder_in_one_table(pair, tmp_path, capsys):
    write_audio(tmp_path / "b" / "input.wav", read_audio(pair[0]), RATE)
    write_audio(tmp_path / "b" / "target.wav", read_audio(pair[0]) / 2, RATE)
    assert status(tmp_path) == 2
    said = capsys.readouterr().out
    assert "delay (blocks)" in said
    assert "nothing_to_learn" in said
    assert said.splitlines()[-1] == "2 pairs: 1 blocked, 0 harmed, 1 ready"


def test_split(tmp_path, capsys):
    pair = tmp_path / "long-input.wav", tmp_path / "long-target.wav"
    dry = dry_signal(14.0, RATE, 7)
    write_audio(pair[0], dry, RATE)
    write_audio(pair[1], EFFECTS["comp"](dry, RATE), RATE)
    status(*pair, "--split", "40/30/30", "--to", tmp_path / "root" / "amp")
    parts = [tmp_path / "root" / split / "amp-input.wav" for split in ("train", "val", "test")]
    lengths = [check_pair(part, part.with_name("amp-target.wav")).frames for part in parts]
    assert min(lengths) > 1.2 * RATE
    assert sum(lengths) < audio_info(pair[0]).frames - 1.9 * RATE  # gaps of a second or more


def test_figure(pair, tmp_path, capsys):
    status(*pair, "--figure", tmp_path / "pair.png")
    assert (tmp_path / "pair.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda dry, wet: (dry, dry), "same_file"),
        (lambda dry, wet: (dry, dry_signal(10.0, RATE, 8)), "unrelated"),
        (lambda dry, wet: (dry, -wet), "inverted"),
        (lambda dry, wet: (EFFECTS["octave"](dry, RATE), dry), "swapped"),
        (lambda dry, wet: (dry, wet[:-1000]), "lengths_differ"),
        (lambda dry, wet: (dry, wet[2:]), "delay"),
        (lambda dry, wet: (dry, np.concatenate([wet[:200_000], wet[200_441:]])), "jumps"),
        (lambda dry, wet: (dry, 0 * wet), "silent"),
        (lambda dry, wet: (dry, wet + np.where(np.arange(len(wet)) == 9, np.nan, 0)), "not_finite"),
        (lambda dry, wet: (dry[:3000], wet[:3000]), "too_short"),
        (lambda dry, wet: (dry, EFFECTS["gain"](dry, RATE)), "nothing_to_learn"),
        (lambda dry, wet: (dry, EFFECTS["eq"](dry, RATE)), "linear_device"),
        (lambda dry, wet: (dry, EFFECTS["tremolo"](dry, RATE)), "modulation"),
        (
            lambda dry, wet: (dry, wet + 0.02 * np.random.default_rng(1).standard_normal(len(wet))),
            "noisy_target",
        ),
    ],
)
def test_mismatched_pairs(sounds, tmp_path, change, name):
    dry, wet = change(*sounds)
    paths = tmp_path / "one.wav", tmp_path / "two.wav"
    for path, samples in zip(paths, (dry, wet), strict=True):
        write_audio(path, samples, RATE)
    assert name in names(diagnose(*paths, device=name in OF_THE_DEVICE))


def test_a_clean_pair_has_no_findings(sounds, tmp_path):
    paths = tmp_path / "one.wav", tmp_path / "two.wav"
    for path, samples in zip(paths, sounds, strict=True):
        write_audio(path, samples, RATE)
    found = diagnose(*paths)
    assert names(found, "blocks") == names(found, "harms") == []


def test_other_rate(sounds, tmp_path):
    paths = tmp_path / "one.wav", tmp_path / "two.wav"
    write_audio(paths[0], sounds[0], RATE)
    late = np.append(np.zeros(441), sounds[1]).astype(np.float32)
    write_audio(paths[1], np.concatenate(list(resampled([late], len(late), RATE, 48000))), 48000)
    diagnosis = diagnose(*paths, device=False)
    assert {"rates_differ", "delay"} <= set(names(diagnosis, "blocks"))
    assert abs(diagnosis.to_dict()["delay_samples"] - 441) < 0.1


def test_files_that_are_not_there(tmp_path, capsys):
    assert status(tmp_path / "no.wav", tmp_path / "none.wav") == 2
    assert "missing_file" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words", [[], ["one.wav"], ["a.wav", "b.wav", "--split", "1/1/1"], ["a.wav", "b.wav", "c.wav"]]
)
def test_options_that_do_not_go_together(words):
    with pytest.raises(ConfigError):
        main(["doctor", *words])


def test_what_libraries_print_is_not_in_the_json(capfd):
    with command._clean_output():
        os.write(1, b"Error A : 8C\n")
    os.write(1, b"{}")
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("{}", "Error A : 8C\n")


def test_pairs_of_one_name_are_mended_beside_each_other(tmp_path):
    dry = dry_signal(2, RATE, 0)
    for folder in ("a", "b"):
        write_audio(tmp_path / folder / "x-input.wav", dry, RATE)
        write_audio(tmp_path / folder / "x-target.wav", np.tanh(dry), RATE)
    status(tmp_path, "--fix", tmp_path / "new")
    assert sorted(path.parent.name for path in (tmp_path / "new").rglob("x-input.wav")) == ["a", "b"]

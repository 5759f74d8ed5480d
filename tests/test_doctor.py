"""The `doctor` command, as its users call it."""

import json
import os
import re
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from effects import EFFECTS
from matplotlib.image import imread

from klann_lightning.cli import main
from klann_lightning.data.audio import audio_info, read_audio, write_audio
from klann_lightning.data.pairs import check_pair
from klann_lightning.data.resampling import resampled
from klann_lightning.data.signals import dry_signal
from klann_lightning.doctor import command, picture
from klann_lightning.doctor.diagnose import diagnose
from klann_lightning.doctor.picture import pair_figure
from klann_lightning.errors import ConfigError

RATE = 44100
OF_THE_DEVICE = ("nothing_to_learn", "linear_device", "modulation", "noisy_target")


@pytest.fixture(scope="module")
def sounds():
    dry = dry_signal(10.0, RATE, 7)
    return dry, EFFECTS["comp"](dry, RATE)


@pytest.fixture(scope="module")
def pair(tmp_path_factory, sounds):
    """A compressor, recorded 300 samples late; nothing is written beside it but another pair in `b`."""
    dry, wet = sounds
    folder = tmp_path_factory.mktemp("recorded")
    paths = folder / "amp-input.wav", folder / "amp-target.wav"
    write_audio(paths[0], dry, RATE)
    write_audio(paths[1], np.concatenate([np.zeros(300), wet])[: len(dry)], RATE)
    return paths


@pytest.fixture(autouse=True, scope="module")
def _diagnosed_once():
    """A pair that several commands are given."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "diagnose", cache(diagnose))
        yield


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


def test_a_folder_in_one_table(pair, capsys):
    folder = pair[0].parent
    write_audio(folder / "b" / "input.wav", read_audio(pair[0]), RATE)
    write_audio(folder / "b" / "target.wav", read_audio(pair[0]) / 2, RATE)
    assert status(folder) == 2
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
    title, *lines = capsys.readouterr().out.splitlines()[-4:]
    assert title == "mended, and split with gaps of 1.00 s or more:"
    ends = []
    for split, line in zip(("train", "val", "test"), lines, strict=True):
        path = tmp_path / "root" / split / "amp-input.wav"
        said = re.fullmatch(rf"  {split}: (\d+\.\d\d) to (\d+\.\d\d) s -> {re.escape(str(path))}", line)
        start, end = (float(second) for second in said.groups())
        frames = check_pair(path, path.with_name("amp-target.wav")).frames
        assert frames / RATE == pytest.approx(end - start, abs=0.011)
        for whole, part in zip(pair, (path, path.with_name("amp-target.wav")), strict=True):
            near = max(round((start - 0.006) * RATE), 0)
            samples = 0.0 + read_audio(whole)[near : near + frames + round(0.012 * RATE)]  # without -0.0
            assert (0.0 + read_audio(part)).tobytes() in samples.tobytes()
        ends.append((start, end))
    assert (ends[0][0], ends[2][1]) == (0.0, 14.0)
    assert min(after[0] - before[1] for before, after in pairwise(ends)) > 0.99
    assert [end - start for start, end in ends] == pytest.approx([4.8, 3.6, 3.6], abs=0.8)


def test_figure(pair, tmp_path, capsys, monkeypatch):
    """Its picture is looked at in its lines: the attack 300 samples apart, mended none, and the delay."""
    drawn = []
    monkeypatch.setattr(picture, "pair_figure", lambda found: drawn.append(pair_figure(found)) or drawn[0])
    assert status(*pair, "--figure", tmp_path / "pair.png") == 2
    assert capsys.readouterr().out.endswith(f"\nfigure: {tmp_path / 'pair.png'}\n")
    assert imread(tmp_path / "pair.png").shape[:2] == (800, 1200)
    recorded, mended, delays, levels = drawn[0].axes
    for axes, late in ((recorded, 300), (mended, 0)):
        x, y = (line.get_ydata() for line in axes.lines)
        assert np.abs(np.correlate(y, x, "full")).argmax() - (len(x) - 1) == pytest.approx(late, abs=5)
    taken = next(line for line in delays.lines if line.get_label() == "taken")
    np.testing.assert_allclose(taken.get_ydata(), 300, atol=0.1)
    power = np.square(read_audio(pair[0]))[: 441 * (RATE // 441 * 9)].reshape(-1, 441).mean(axis=1)
    assert levels.lines[0].get_xdata().max() == pytest.approx(10 * np.log10(power.max()), abs=0.1)


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
    ("words", "said"),
    [
        ([], "name an input and a target, or folders that hold pairs"),
        (["one.wav"], "name an input and a target, or folders"),
        (["a.wav", "b.wav", "c.wav"], "name an input and a target, or folders"),
        (["a.wav", "."], "name an input and a target, or folders"),
        (["a.wav", "b.wav", "--split", "1/1/1"], "--split and --to go together: "),
        (["a.wav", "b.wav", "--to", "root/amp"], "--split and --to go together: "),
        ([".", "--figure", "a.png"], "--split, --to and --figure are for one pair: "),
        ([".", "--split", "1/1/1", "--to", "root/amp"], "--split, --to and --figure are for one pair: "),
    ],
)
def test_options_that_do_not_go_together(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("input", "target"):
        (tmp_path / f"x-{name}.wav").touch()
    with pytest.raises(ConfigError, match=f"^{said}"):
        main(["doctor", *words])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x-input.wav", "x-target.wav"]


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

"""What a user types: each command, and every way to get it wrong in one line."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import error_db
from test_stages import TIME, fit

from klann_lightning import cli
from klann_lightning.cli import main, run
from klann_lightning.data.audio import audio_info, read_audio, write_audio
from klann_lightning.errors import CheckpointError, ConfigError, PairError
from klann_lightning.training.checkpoints import load_model

SWEEPS = Path(__file__).parents[1] / "sweeps"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """Of a training of one batch."""
    from conftest import write_root

    folder = tmp_path_factory.mktemp("trained")
    root = write_root(folder / "data", np.tanh)
    fit(root, folder / "run", f"[{TIME}]", "--trainer.max_epochs=1", "--trainer.limit_train_batches=1")
    return folder / "run" / "stage-1-time.ckpt"


def shell(*words: object) -> subprocess.CompletedProcess[str]:
    """The program as a shell runs it."""
    command = [sys.executable, "-m", "klann_lightning", *map(str, words)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "80"}
    )


def test_simulate_writes_three_splits_that_train(tmp_path, capsys):
    main(["simulate", "compressor", str(tmp_path), "--seconds", "5"])
    for split, seconds in (("train", 5), ("val", 1), ("test", 1)):
        for side in ("input", "target"):
            info = audio_info(tmp_path / split / f"compressor-{side}.wav")
            assert info == (44100, seconds * 44100, 1)
    assert "train" in capsys.readouterr().out
    inputs = [
        read_audio(tmp_path / split / "compressor-input.wav")[:44100] for split in ("train", "val", "test")
    ]
    assert not np.array_equal(inputs[0], inputs[1])
    assert not np.array_equal(inputs[1], inputs[2])


def test_simulate_repeats_with_its_seed(tmp_path):
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        main(["simulate", "fuzz", str(tmp_path / folder), "--seconds", "5", "--seed", str(seed)])
    samples = [read_audio(tmp_path / folder / "train" / "fuzz-target.wav") for folder in "abc"]
    assert np.array_equal(samples[0], samples[1])
    assert not np.array_equal(samples[0], samples[2])


def test_seeds_share_no_split(tmp_path):
    """Another seed's training file is not this one's test file."""
    for seed in range(3):
        main(["simulate", "fuzz", str(tmp_path / str(seed)), "--seconds", "25", "--seed", str(seed)])
    paths = sorted(tmp_path.rglob("fuzz-input.wav"))
    openings = {read_audio(path, 0, 5 * 44100).tobytes() for path in paths}
    assert len(openings) == 9


@pytest.mark.parametrize("block", [64, 1000, 65536])
def test_process_plays_what_the_model_gives(checkpoint, tmp_path, block):
    source = np.random.default_rng(0).uniform(-0.5, 0.5, 3000).astype(np.float32)
    write_audio(tmp_path / "in.wav", source, 44100)
    main(
        [
            "process",
            str(checkpoint),
            str(tmp_path / "in.wav"),
            str(tmp_path / "out.wav"),
            "--block",
            str(block),
        ]
    )
    heard = torch.from_numpy(read_audio(tmp_path / "out.wav"))
    assert error_db(heard, load_model(checkpoint)(torch.from_numpy(source)[None])[0]) < -100


def test_process_refuses_another_rate(checkpoint, tmp_path):
    write_audio(tmp_path / "in.wav", np.zeros(100) + 0.1, 48000)
    with pytest.raises(PairError, match=r"in\.wav is 48000 Hz, the model .* was trained at 44100 Hz"):
        main(["process", str(checkpoint), str(tmp_path / "in.wav"), str(tmp_path / "out.wav")])


def test_process_refuses_what_is_no_checkpoint(tmp_path):
    (tmp_path / "notes.ckpt").write_text("not a checkpoint")
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.ckpt")
    for name, words in (
        ("missing.ckpt", "no such checkpoint"),
        ("notes.ckpt", "cannot be read as a checkpoint: it is damaged, or holds more than tensors"),
        ("other.ckpt", "is not a checkpoint of a fit"),
    ):
        with pytest.raises(CheckpointError, match=words):
            main(["process", str(tmp_path / name), "in.wav", "out.wav"])


def test_help_names_every_command():
    done = shell("--help")
    assert done.returncode == 0
    for command in (
        "fit",
        "validate",
        "test",
        "predict",
        "simulate",
        "download",
        "process",
        "import",
        "bench",
    ):
        assert f"  {command} " in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["frobnicate"], "no command is called 'frobnicate'. There are: fit,"),
        (["simulate", "nope", "x"], "no simulated device is called 'nope'"),
        (["simulate"], "the following arguments are required: device, root"),
        (
            ["bench", "--systems", "tiny", "--json", "new/speed.json"],
            "no system is called tiny; there are small_",
        ),
        (["fit"], "required: fit.model.model"),
        (["fit", "--config", "nope.yaml"], "nope.yaml"),
        (["download", "--rot", "x"], "--rot"),
        (["fit", "--config", SWEEPS / "la2a.yaml", "--data.root", "nowhere"], "no folder nowhere/train"),
        (
            ["fit", "--config", SWEEPS / "la2a.yaml", "--data.root", "nowhere"],
            "fetch the paper's: python -m klann_lightning download la2a --root nowhere, or simulate",
        ),
        (
            ["fit", "--config", SWEEPS / "la2a.yaml", "--model.model.hiden", "3"],
            "Option 'hiden' is not accepted",
        ),
        (["fit", "--config", SWEEPS / "la2a.yaml", "--model.model.lift_dim", "five"], "lift_dim"),
        (["fit", "--config", SWEEPS / "la2a.yaml", "--trainer.foo", "3"], "--trainer.foo"),
        (
            ["fit", "--config", SWEEPS / "la2a.yaml", "--model.model", "klann_lightning.Nope"],
            "klann_lightning.Nope",
        ),
        (["test", "--config", SWEEPS / "la2a.yaml", "--ckpt_path", "no.ckpt"], "no such checkpoint: no.ckpt"),
    ],
)
def test_a_mistake_is_one_clear_line(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["klann_lightning", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        run()
    assert end.value.code == 2
    printed, told = capsys.readouterr()
    assert printed == ""
    (line,) = told.splitlines()
    assert line.startswith("error: ")
    assert said in line
    assert not list(tmp_path.iterdir())  # nothing is left behind


def test_a_wrong_value_in_a_config_is_one_clear_line(tmp_path):
    """As a shell shows it."""
    (tmp_path / "wrong.yaml").write_text(
        "model:\n  stages:\n    - {name: time, weights: {essr: 1.0}, epochs: 3}\n"
    )
    done = shell("fit", "--config", SWEEPS / "la2a.yaml", "--config", tmp_path / "wrong.yaml")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "weighs essr; the loss terms are mse, esr" in line


def test_errors_are_exceptions_for_programs(tiny_root):
    with pytest.raises(PairError, match="no file other"):
        fit(tiny_root, tiny_root / "run", f"[{TIME}]", "--data.device=other")
    with pytest.raises(ConfigError, match="lift_dim 0"):
        fit(tiny_root, tiny_root / "run", f"[{TIME}]", "--model.model.lift_dim=0")


def test_a_broken_recording_stops_before_training(tiny_root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tiny_root / "train" / "tiny-target.wav"
    path.write_bytes(path.read_bytes()[:-1000])
    done = shell("fit", "--config", SWEEPS / "la2a.yaml", "--data.device", "tiny", "--data.root", tiny_root)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "tiny-target.wav is truncated" in line
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("command", ["report", "bench", "process", "validate"])
def test_what_is_interrupted_says_what_is_left(command, monkeypatch, capsys):
    def stopped(words):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_run_command", stopped)
    monkeypatch.setattr(sys, "argv", ["klann", "--quiet", command, "report"])
    with pytest.raises(SystemExit) as left:
        cli.run()
    assert left.value.code == 130
    said = capsys.readouterr().err
    assert said == (f"interrupted: {cli.LEFT[command]}\n" if command in cli.LEFT else "interrupted\n")

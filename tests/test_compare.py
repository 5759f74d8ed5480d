"""Whole comparisons: what they leave, that they go on where they were stopped, and what they refuse."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import write_root
from filelock import FileLock
from servers import wait_until
from test_stages import SMALL, TIME

from klann_lightning.cli import main
from klann_lightning.comparison import training
from klann_lightning.comparison.command import ComparisonError
from klann_lightning.comparison.scoring import Recordings
from klann_lightning.data.audio import read_audio, write_audio
from klann_lightning.data.datamodule import PairedDataModule
from klann_lightning.errors import ConfigError, PairError
from klann_lightning.training.checkpoints import load_model

BAD = TIME.replace("0.01}", "1e30}").replace('"esr": 1.0', '"mse": 1e38')
ENDLESS = TIME.replace('"epochs": 3', '"epochs": 1000000')
LIMIT_SECONDS = 6


class Comparison:
    """A grid over a tiny device, and the command that trains it."""

    def __init__(self, folder: Path, root: Path, systems: dict, **fields) -> None:
        self.folder, self.root, self.out = folder, root, folder / "out"
        self.grid = folder / "grid.yaml"
        self.write(systems, **fields)

    def write(self, systems: dict, **fields) -> None:
        grid = {"minutes": LIMIT_SECONDS / 60, "devices": {"tiny one": ["--data.device=tiny"]}, **fields}
        lines = {name: {"fit": [*SMALL, *words]} for name, words in systems.items()}
        self.grid.write_text(yaml.safe_dump({**grid, "systems": lines}))

    def words(self, *more: str) -> list[str]:
        root = [f"--data.root={self.root}", "--data.context_seconds=0.1"]
        return ["compare", f"--grid={self.grid}", f"--out={self.out}", *root, *more]

    def cell(self, system: str) -> Path:
        return self.out / "cells" / "tiny_one" / system / "0"


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_root(tmp_path_factory.mktemp("recordings"), lambda x: np.tanh(2 * x))


@pytest.fixture(scope="module")
def done(tmp_path_factory, root) -> Comparison:
    """A comparison of one system that trains, one that diverges, and outputs of somebody else's."""
    folder = tmp_path_factory.mktemp("comparison")
    write_audio(
        folder / "others" / "tiny-half.wav", 0.5 * read_audio(root / "test" / "tiny-target.wav"), 44100
    )
    comparison = Comparison(
        folder, root, {"a/b": [f"--model.stages=[{TIME}]"], "bad": [f"--model.stages=[{BAD}]"]}
    )
    main(comparison.words(f"--played={folder / 'others'}"))
    return comparison


@pytest.fixture
def fresh(tmp_path, root) -> Comparison:
    """One that has not begun."""
    return Comparison(tmp_path, root, {"a": [f"--model.stages=[{TIME}]"]})


def rows_of(comparison: Comparison) -> dict[str, dict[str, str]]:
    lines = csv.DictReader((comparison.out / "results.csv").read_text().splitlines())
    return {line["system"]: line for line in lines}


def test_a_comparison_leaves_its_tables(done):
    rows = rows_of(done)
    assert list(rows) == [
        *("input as it is", "best gain", "best 512-tap filter", "the target's quietest 100 ms"),
        *("others: half", "a/b", "bad"),
    ]
    assert float(rows["others: half"]["esr_db"]) == pytest.approx(20 * np.log10(0.5), abs=1e-5)
    text = (done.out / "results.md").read_text()
    assert "### tiny one" in text
    assert rows["a/b"]["machine"] in text
    assert (done.out / "results.tex").read_text().startswith(r"\begin{tabular}")
    assert (done.out / "tiny_one-esr.png").read_bytes().startswith(b"\x89PNG")


def test_a_row_tells_what_was_trained_and_where(done):
    row = json.loads((done.cell("a-b") / "row.json").read_text())
    assert (row["device"], row["system"], row["seed"]) == ("tiny one", "a/b", 0)
    assert (row["steps"], row["samples"]) == (3 * 4, 3 * 4 * 2 * 2048)
    assert (row["accelerator"], row["date"][:2]) == ("cpu", "20")
    assert {"machine", "torch", "threads", "load_average"} <= row.keys()
    read = rows_of(done)["a/b"]
    assert {name: str(value) for name, value in row.items()} == {name: read[name] for name in row}


def test_scores_are_the_written_outputs(done, root):
    row = json.loads((done.cell("a-b") / "row.json").read_text())
    output = read_audio(done.cell("a-b") / "test" / "tiny.wav")[4410:].astype(float)
    target = read_audio(root / "test" / "tiny-target.wav")[4410:].astype(float)
    esr_db = 10 * np.log10(((output - target) ** 2).sum() / (target**2).sum())
    assert row["esr_db"] == pytest.approx(esr_db, abs=1e-4)
    test = Recordings(PairedDataModule("tiny", root, context_seconds=0.1), "test")
    played = test.played(load_model(done.cell("a-b") / "stage-1-time.ckpt"))[0]
    np.testing.assert_allclose(played, read_audio(done.cell("a-b") / "test" / "tiny.wav"), atol=1e-6)


def test_a_training_that_diverges_says_so(done):
    assert "failure" not in json.loads((done.cell("a-b") / "row.json").read_text())
    assert "diverged: train/loss is" in rows_of(done)["bad"]["failure"]
    assert "| bad (diverged: train/loss is" in (done.out / "results.md").read_text()
    assert "bad (1 of 1 failed)" in (done.out / "results.tex").read_text()


def test_a_training_never_sees_the_test_recordings(done):
    log = (done.cell("a-b") / "fit.log").read_text()
    assert "tiny, val" in log
    assert "tiny, test" not in log
    assert "test" not in (done.cell("a-b") / "metrics.csv").read_text()


def test_the_same_command_trains_only_what_failed(done, capsys):
    checkpoint = done.cell("a-b") / "last.ckpt"
    before = checkpoint.stat().st_mtime_ns
    row = rows_of(done)["a/b"]
    main(done.words())
    assert checkpoint.stat().st_mtime_ns == before
    assert (done.cell("bad") / "fit.log").read_text().count("diverged: train/loss is") == 2
    assert rows_of(done)["a/b"] == row
    said = capsys.readouterr().out
    assert f"written: {done.out / 'results.md'}, " in said
    assert "1 of 2 trainings failed; the same command tries them again" in said


def test_a_cell_that_was_begun_with_other_settings_is_refused(done):
    words = done.words("--model.normalise=false")
    with pytest.raises(ConfigError, match=r"a-b/0 was begun with another .*: model\.normalise differ"):
        main(words)


def test_two_comparisons_in_one_folder_are_refused(fresh):
    fresh.out.mkdir()
    with (
        FileLock(fresh.out / "lock"),
        pytest.raises(ConfigError, match="another comparison works in"),
    ):
        main(fresh.words())


def test_a_folder_that_cannot_be_written_is_named(fresh):
    fresh.out.write_text("a file")
    with pytest.raises(ComparisonError, match=f"File exists.*{fresh.out}"):
        main(fresh.words())


def test_a_comparison_without_recordings_does_not_begin(fresh, tmp_path):
    with pytest.raises(PairError, match="no folder"):
        main(fresh.words(f"--data.root={tmp_path / 'nowhere'}"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="has no recording of a take, such as tiny-<system>"):
        main(fresh.words(f"--played={tmp_path / 'empty'}"))
    assert not (fresh.out / "cells").exists()


def test_systems_are_scored_on_the_same_recordings(fresh):
    stages = f"--model.stages=[{TIME}]"
    fresh.write({"a": [stages], "b": [stages, "--data.resample=true"]})
    with pytest.raises(ConfigError, match=r"tiny_one/b/0 and tiny_one/a/0 differ in data\.resample"):
        main(fresh.words())


def test_a_comparison_without_any_result_is_an_error(fresh, monkeypatch):
    failing = [sys.executable, "-c", "raise SystemExit('error: nothing learned')"]
    monkeypatch.setattr(training, "fit_command", lambda *_: failing)
    with pytest.raises(ComparisonError, match=r"no training came to its end; .*fit\.log say why"):
        main(fresh.words())
    assert rows_of(fresh)["a"]["failure"] == "nothing learned"
    assert "| a (nothing learned) |" in (fresh.out / "results.md").read_text()


def test_a_stopped_training_goes_on_within_its_time(fresh):
    """What was trained before the stop counts, and the sum is the grid's minutes."""
    fresh.write({"long": [f"--model.stages=[{ENDLESS}]"]})
    command = [sys.executable, "-m", "klann_lightning", *fresh.words()]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    last = fresh.cell("long") / "last.ckpt"
    wait_until(last.exists, 120)
    time.sleep(LIMIT_SECONDS / 4)
    os.kill(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    assert (process.returncode, said.splitlines()[-1]) == (
        130,
        "1/1 tiny_one/long/0: stopped; the same command goes on with it",
    )
    stopped = torch.load(last, weights_only=True)
    before = stopped["callbacks"]["Timer"]["time_elapsed"]["train"]
    assert 1 < before < LIMIT_SECONDS  # more than what the sum may be off by
    main(fresh.words())
    ended = torch.load(last, weights_only=True)
    row = json.loads((fresh.cell("long") / "row.json").read_text())
    assert row["seconds"] == pytest.approx(LIMIT_SECONDS, abs=1)
    assert row["samples"] == row["steps"] * 2 * 2048
    assert "(time ran out in stage-1-" in (fresh.out / "results.md").read_text()
    assert ended["epoch"] > stopped["epoch"]
    assert f"--ckpt_path={last}" in (fresh.cell("long") / "fit.log").read_text()

    # Stopped once more, after its time was over but before its scores were written.
    for name in ("scores.json", "spent.json", "row.json"):
        (fresh.cell("long") / name).unlink()
    main(fresh.words())
    again = json.loads((fresh.cell("long") / "row.json").read_text())
    assert (again["steps"], again["esr_db"]) == (row["steps"], row["esr_db"])
    assert again["seconds"] == pytest.approx(row["seconds"], abs=0.5)


def test_a_model_that_cannot_be_made_is_named_before_anything_trains(fresh):
    fresh.write({"none": [f"--model.stages=[{TIME}]", "--model.model.hidden=[0]"]})
    with pytest.raises(ConfigError, match=r"^tiny_one/none/0: hidden \[0\].* must be at least 1"):
        main(fresh.words())
    assert not fresh.out.exists()


@pytest.mark.parametrize(
    "word", ["--ckpt_path=x.ckpt", "--trainer.logger+=CSVLogger", "--trainer.max_epochs=3"]
)
def test_what_the_grid_decides_is_refused(fresh, word):
    with pytest.raises(ConfigError, match=r"is not open in a comparison"):
        main([*fresh.words(), word])

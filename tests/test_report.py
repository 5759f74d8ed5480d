"""The report command: what it finds, plays, scores and writes, and what it refuses."""

import csv
import errno
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from browsers import Watched
from conftest import error_db, write_root
from test_stages import SMALL, SPECTRAL, TIME

from klann_lightning.cli import main
from klann_lightning.comparison.scoring import Recordings
from klann_lightning.data.audio import read_audio, write_audio
from klann_lightning.data.datamodule import PairedDataModule
from klann_lightning.data.devices import (
    ATTACK_SECONDS,
    FAST_RELEASE_SECONDS,
    MEMORY_CHARGE_SECONDS,
    MEMORY_RELEASE_SECONDS,
    simulate,
)
from klann_lightning.errors import ConfigError, PairError
from klann_lightning.export.document import document
from klann_lightning.report import gathering
from klann_lightning.report.command import ReportError
from klann_lightning.report.heard import common_gain, low_anchor
from klann_lightning.report.numbers import detector_table
from klann_lightning.report.sources import find_sources
from klann_lightning.training.checkpoints import load_model

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with `data`, and `runs/tiny/<time>` of two stages on it."""
    folder = tmp_path_factory.mktemp("trained")
    root = write_root(folder / "data", lambda x: np.tanh(2 * x))
    stages = f"--model.stages=[{TIME}, {SPECTRAL}]"
    where = ("--data.device=tiny", f"--data.root={root}", f"--runs={folder / 'runs'}", "--experiment=tiny")
    main(["fit", *where, *SMALL, stages, "--trainer.logger=false", "--media=false", "--keep_share=1"])
    return folder


@pytest.fixture(scope="module")
def run(trained) -> Path:
    (folder,) = (trained / "runs/tiny").iterdir()
    return folder


@pytest.fixture(scope="module")
def written(trained, run, tmp_path_factory) -> Path:
    """A report of the run, with what somebody else made of its recordings."""
    out = tmp_path_factory.mktemp("written") / "report"
    played = trained / "played"
    target = read_audio(trained / "data/test/tiny-target.wav")
    write_audio(played / "tiny-half.wav", target / 2, 44100)
    write_audio(played / "tiny-flipped.wav", -target, 44100)
    words = [f"--extra=others={played}", f"--extra={HOSTILE}={played / 'tiny-half.wav'}"]
    main(["report", str(out), str(trained / "runs/tiny"), *words, f"--title={HOSTILE}"])
    return out


def content(out: Path) -> dict:
    """What the page's scripts are given."""
    found = re.search(
        r'<script type="application/json"[^>]*>(.*?)</script>', (out / "index.html").read_text(), re.DOTALL
    )
    return json.loads(found[1])


def versions(out: Path) -> dict:
    (take,) = content(out)["takes"]
    return {version["label"]: version for version in take["versions"]}


def numbers(out: Path) -> dict:
    with (out / "numbers.csv").open() as file:
        return {row["system"]: row for row in csv.DictReader(file)}


def test_the_page_has_every_version_of_the_recording(written, run):
    found = versions(written)
    model = load_model(run / "stage-1-time.ckpt")
    called = f"ParallelKlann {sum(part.numel() for part in model.parameters())}"
    assert list(found) == [
        *("Input", "Target", f"{called}, stage 1, time", f"{called}, stage 2, spectral"),
        *("others, flipped", "others, half", HOSTILE, "Anchor"),
    ]
    kinds = [version["kind"] for version in found.values()]
    assert kinds == ["input", "target", "model", "model", "extra", "extra", "extra", "anchor"]


def test_everything_that_the_page_names_is_beside_it(written):
    for version in versions(written).values():
        assert (written / "audio" / f"{version['key']}.flac").is_file()
        assert (written / "audio" / f"{version['key']}.js").read_text().startswith("klann.sound(")
        for chart in version["charts"]:
            assert (written / "figures" / f"{chart['key']}.js").is_file()
    for link in re.findall(r'(?:href|src)="([^"#]+)"', (written / "index.html").read_text()):
        assert (written / link).is_file(), link


def test_the_last_stage_is_there_to_play_a_file_of_ones_own(written, run):
    (model,) = content(written)["models"]
    assert (model["device"], model["sample_rate"]) == ("tiny", 44100)
    (file,) = (written / "models").iterdir()
    handed = re.fullmatch(r"klann\.model\((.*?), (\{.*\})\);\n", file.read_text())
    assert json.loads(handed[1]) == model["key"] == file.stem
    exported = document(load_model(run / "stage-2-spectral.ckpt"))
    assert json.loads(handed[2]) == {
        name: value for name, value in exported.items() if name not in ("snapshot", "training")
    }


def test_a_model_that_no_document_holds_is_not_offered(run, tmp_path, monkeypatch):
    def refuse(_):
        raise ConfigError("an Lstm is not made of layers and filters")

    monkeypatch.setattr(gathering, "document", refuse)
    main(["report", str(tmp_path / "out"), str(run / "stage-1-time.ckpt"), "--seconds=0.25"])
    assert content(tmp_path / "out")["models"] == []
    assert 'id="own"' not in (tmp_path / "out/index.html").read_text()


def test_sounds_are_the_recording_and_what_the_model_makes_of_it(written, trained, run):
    found, (take,) = versions(written), content(written)["takes"]
    gain = 10 ** (-take["lowered_db"] / 20)
    source, target = (
        torch.from_numpy(read_audio(trained / f"data/test/tiny-{side}.wav")) for side in ("input", "target")
    )
    last = next(version for label, version in found.items() if "spectral" in label)
    with torch.no_grad():
        output = load_model(run / "stage-2-spectral.ckpt")(source[None])[0]
    for version, expected in ((found["Input"], source), (found["Target"], target), (last, output)):
        heard = torch.from_numpy(read_audio(written / "audio" / f"{version['key']}.flac"))
        assert error_db(heard, gain * expected) < -100  # 24 bit
    assert found["others, half"]["match_db"] == pytest.approx(20 * np.log10(2), abs=1e-3)


def test_scores_are_those_of_the_run(written, run):
    ours, theirs = numbers(written), json.loads((run / "scores.json").read_text())
    for row in theirs:
        label = next(
            name for name in ours if row["name"].removeprefix("stage-")[2:] in name or name == row["name"]
        )
        assert float(ours[label]["esr_db"]) == pytest.approx(row["esr_db"], abs=1e-3)
        assert float(ours[label]["mr_stft"]) == pytest.approx(row["mr_stft"], abs=1e-4)
    assert float(ours["others, half"]["esr_db"]) == pytest.approx(20 * np.log10(0.5), abs=1e-3)
    assert float(ours["others, flipped"]["esr_db"]) == pytest.approx(20 * np.log10(2), abs=1e-3)


def test_the_page_says_how_to_make_it_again(written, run):
    text = (written / "index.html").read_text()
    assert f"python -m klann_lightning report {written}" in text
    (config,) = (written / "configurations").iterdir()
    assert config.read_text() == (run / "config.yaml").read_text()


def test_the_page_opens_without_a_fault_and_hostile_names_stay_text(written, browser):
    watched = Watched(browser)
    page = watched.open(written / "index.html")
    page.click(f"button[aria-label='Play {HOSTILE}, tiny']")
    page.wait_for_selector("figure .main-svg")
    assert page.title() == HOSTILE
    page.wait_for_timeout(300)
    watched.close()
    assert watched.faults == []
    assert {url.split(":")[0] for url in watched.requests} <= {"file", "data", "blob"}


def test_a_report_replaces_its_own_folder_and_no_other(written, run, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(written, again)
    main(["report", str(again), str(run / "stage-1-time.ckpt"), "--seconds=0.25"])
    assert len(versions(again)) == 4
    assert len(list((again / "audio").glob("*.flac"))) == 4
    assert content(again)["takes"][0]["seconds"] == 0.25
    assert len(list((again / "models").iterdir())) == 1
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("unique")
    with pytest.raises(ConfigError, match=r"mine is there already and is no report"):
        main(["report", str(tmp_path / "mine"), str(run)])
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_a_full_disk_is_one_line_and_leaves_no_page(run, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(gathering, "write_whole", full)
    with pytest.raises(ReportError, match=r"cannot write .*out: No space left on device"):
        main(["report", str(tmp_path / "out"), str(run / "stage-1-time.ckpt")])
    assert not (tmp_path / "out/index.html").exists()


def test_the_page_finds_the_time_constants_of_the_simulated_compressor(tmp_path):
    for side, samples in zip(("input", "target"), simulate("compressor", 60, 44100, 7), strict=True):
        write_audio(tmp_path / f"train/compressor-{side}.wav", samples, 44100)
        write_audio(tmp_path / f"test/compressor-{side}.wav", samples[: 12 * 44100], 44100)
    data = PairedDataModule("compressor", tmp_path, context_seconds=1.0)
    shutil.copytree(tmp_path / "test", tmp_path / "val")
    recordings, training = Recordings(data, "test"), Recordings(data, "train").takes[0]
    (table,) = detector_table("compressor", recordings, training, [])
    (name, *shown, _, explained), (other, *_) = table.rows
    attack, release, charge, memory = (_in_seconds(text) for text in shown)
    assert (name, other) == ("Target, 60 s of training", "Target")
    assert float(explained.removesuffix(" %")) > 99
    assert "feedback, sensing power" in table.note
    assert attack == pytest.approx(ATTACK_SECONDS, rel=0.2)
    assert release == pytest.approx(FAST_RELEASE_SECONDS, rel=0.2)
    assert charge == pytest.approx(MEMORY_CHARGE_SECONDS, rel=0.2)
    assert MEMORY_RELEASE_SECONDS[0] < memory < MEMORY_RELEASE_SECONDS[1]


def _in_seconds(text: str) -> float:
    number, unit = text.split()
    return float(number) * {"ms": 1e-3, "s": 1.0}[unit]


def test_pruning_writes_the_smaller_model(run, trained, tmp_path):
    """One channel is made idle: no part of the way down listens to it."""
    content = torch.load(run / "stage-1-time.ckpt", weights_only=True)
    name = next(
        key for key in content["state_dict"] if key.startswith("model.down") and key.endswith("weight")
    )
    content["state_dict"][name][:, 0] = 0
    idle = tmp_path / "run/idle.ckpt"
    idle.parent.mkdir()
    torch.save(content, idle)
    shutil.copy(run / "config.yaml", idle.parent)
    main(["report", str(tmp_path / "out"), f"thin={idle}", "--prune"])
    (smaller,) = (tmp_path / "out/pruned").iterdir()
    before, after = load_model(idle), load_model(smaller)
    assert after.multiply_adds() < before.multiply_adds()
    x = torch.from_numpy(read_audio(trained / "data/test/tiny-input.wav"))[None]
    with torch.no_grad():
        assert error_db(after(x), before(x)) < -40
    assert "Pruning" in (tmp_path / "out/index.html").read_text()


def test_a_lone_checkpoint_needs_to_be_told_its_recordings(run, trained, tmp_path):
    lone = str(shutil.copy(run / "stage-1-time.ckpt", tmp_path / "lone.ckpt"))
    with pytest.raises(ConfigError, match=r"no config.yaml beside .*lone.ckpt.*--device.*--root"):
        find_sources([lone], None, None)
    with pytest.raises(ConfigError, match=r"are not in data. Name the folder .* by --root"):
        find_sources([lone], None, "tiny")
    (source,) = find_sources([f"mine={lone}"], trained / "data", "tiny")
    assert (source.system, source.stage, source.device, source.config) == ("mine", "", "tiny", None)


def test_folders_of_runs_experiments_and_comparisons(run, trained, tmp_path):
    stages = [("stage 1, time", False), ("stage 2, spectral", True)]
    for folder in (run, run.parent):
        assert [(source.stage, source.last) for source in find_sources([str(folder)], None, None)] == stages
    for place, system in enumerate(("first", "second")):
        cell = tmp_path / "cells/A_Device" / system / "0"
        shutil.copytree(run, cell)
        (cell / "experiment.yaml").write_text((cell / "config.yaml").read_text())
        row = {"device": "A Device", "system": f"{system} system", "seconds": 60 + place}
        (cell / "row.json").write_text(json.dumps(row))
    found = find_sources([str(tmp_path)], None, None)
    assert [(source.device, source.system, source.stage) for source in found] == [
        ("A Device", f"{system} system", stage) for system in ("first", "second") for stage, _ in stages
    ]
    assert [source.known.get("seconds") for source in found] == [None, 60, None, 61]
    with pytest.raises(ConfigError, match=r"is no folder of a run, an experiment or a comparison"):
        find_sources([str(trained / "data")], None, None)
    with pytest.raises(ConfigError, match=r"no checkpoint is named"):
        find_sources([], None, None)


def test_runs_of_the_same_system_keep_their_stages_together(run, tmp_path):
    """The second has one stage more than the first, as where time ran out."""
    shutil.copytree(run, tmp_path / "short")
    (tmp_path / "short/stage-2-spectral.ckpt").unlink()
    found = find_sources([str(tmp_path / "short"), str(run)], None, None)
    name = found[0].system
    assert [(source.system, source.stage) for source in found] == [
        *((name, "stage 1, time"), (f"{name} (2)", "stage 1, time"), (f"{name} (2)", "stage 2, spectral")),
    ]


def test_seeds_of_a_comparison_are_told_apart(run, tmp_path):
    for seed in (3, 5):
        cell = tmp_path / f"cells/tiny/small/{seed}"
        shutil.copytree(run, cell)
        (cell / "experiment.yaml").write_text((cell / "config.yaml").read_text())
        (cell / "row.json").write_text(json.dumps({"device": "tiny", "system": "small", "seed": seed}))
    found = find_sources([str(tmp_path)], None, None)
    assert [source.system for source in found] == [*["small, seed 3"] * 2, *["small, seed 5"] * 2]


def test_equal_recordings_are_one_column_and_others_are_not(run, trained, tmp_path, monkeypatch):
    lone = str(shutil.copy(run / "stage-1-time.ckpt", tmp_path / "lone.ckpt"))
    monkeypatch.chdir(trained)
    words = [str(run), f"lone={lone}"]
    config = yaml.safe_load((run / "config.yaml").read_text())["data"]
    found = find_sources(words, Path("data"), "tiny")
    assert config["context_seconds"] == 0  # a lone checkpoint's is 1 s
    assert [source.device for source in found] == ["tiny", "tiny", "tiny (2)"]
    named = tmp_path / "named"
    named.mkdir()
    shutil.copy(lone, named / "lone.ckpt")
    (named / "config.yaml").write_text(yaml.safe_dump({"data": {**config, "root": "data"}}))
    found = find_sources([str(run), str(named / "lone.ckpt")], None, "other")  # which says its device itself
    assert [source.device for source in found] == ["tiny"] * 3


def test_no_sound_clips_when_it_is_matched_and_a_burst_silences_none():
    target = 0.1 * np.sin(np.arange(44100, dtype=np.float32) / 10)
    quiet_with_a_peak = 0.01 * target
    quiet_with_a_peak[7] = 0.5
    for others, gain in (([target], 1), ([1e6 * target], 0.99), ([np.full(44100, np.nan)], 1)):
        assert common_gain([target, *others], target, 44100) == pytest.approx(gain, rel=1e-6)
    gain = common_gain([target, quiet_with_a_peak], target, 44100)
    assert 0.1 < gain < 1


def test_there_is_no_anchor_where_there_are_no_highs():
    noise = np.random.default_rng(0).standard_normal(8000).astype(np.float32)
    assert low_anchor(noise, 8000) is None
    anchor = low_anchor(np.resize(noise, 44100), 44100)
    power = np.abs(np.fft.rfft(anchor)) ** 2
    assert power[4500:].sum() < 1e-5 * power[:3500].sum()


def test_a_mistake_leaves_the_former_report(written, run, tmp_path):
    former = tmp_path / "former"
    shutil.copytree(written, former)
    with pytest.raises(ConfigError, match=r"no such file or folder"):
        main(["report", str(former), "--extra=typo.wav", str(run)])
    assert (former / "index.html").is_file()
    assert list((former / "audio").iterdir())


def test_what_others_made_must_fit_a_take(run, trained, tmp_path):
    def report(extra: Path) -> None:
        main(["report", str(tmp_path / "out"), str(run / "stage-1-time.ckpt"), f"--extra={extra}"])

    target = read_audio(trained / "data/test/tiny-target.wav")
    write_audio(tmp_path / "short/tiny-theirs.wav", target[:-1], 44100)
    write_audio(tmp_path / "slow/tiny-theirs.wav", target, 22050)
    write_audio(tmp_path / "strange/other-theirs.wav", target, 44100)
    with pytest.raises(PairError, match=r"tiny-theirs.wav has 22049 samples, tiny has 22050"):
        report(tmp_path / "short")
    with pytest.raises(PairError, match=r"tiny-theirs.wav is 22050 Hz, tiny is 44100 Hz"):
        report(tmp_path / "slow/tiny-theirs.wav")
    with pytest.raises(ConfigError, match=r"strange has no recording that is called after a take.* tiny"):
        report(tmp_path / "strange")
    with pytest.raises(ConfigError, match=r"no such file or folder: .*nowhere"):
        report(tmp_path / "nowhere")
    write_audio(tmp_path / "fine/tiny-theirs.wav", target, 44100)
    with pytest.raises(ConfigError, match=r"two outputs of tiny 'a'"):
        main(["report", str(tmp_path / "out"), str(run), *[f"--extra=a={tmp_path}/fine/tiny-theirs.wav"] * 2])
    with pytest.raises(ConfigError, match=r"'best gain': another row is called so"):
        report(Path(f"best gain={tmp_path}/fine/tiny-theirs.wav"))

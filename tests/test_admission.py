"""What is let into a training: pairs with faults are refused with the cure, or mended for the training."""

import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from damaged import UNUSABLE, sound
from scipy.signal import lfilter
from test_stages import TIME, fit

from klann_lightning.cli import main
from klann_lightning.data.audio import audio_info, read_audio, write_audio
from klann_lightning.data.datamodule import PairedDataModule
from klann_lightning.data.signals import dry_signal
from klann_lightning.doctor import admission
from klann_lightning.doctor.admission import admit_checked, admit_mended
from klann_lightning.doctor.findings import Finding
from klann_lightning.doctor.recipe import load_recipes
from klann_lightning.doctor.verdict import Verdict
from klann_lightning.doctor.warp import Line, warp
from klann_lightning.errors import CheckpointError, ConfigError, PairError
from klann_lightning.playing import _recipe_for
from klann_lightning.training.checkpoints import read_checkpoint

RATE = 44100
LATE = 307


def device(x):
    return np.tanh(3 * lfilter([0.5], [1, -0.5], x))


def later(y, samples):
    return np.concatenate([np.zeros(samples), y])


@pytest.fixture(scope="module")
def dry():
    lengths = {"train": 5, "val": 2, "test": 2}
    return {split: dry_signal(seconds, RATE, seed) for seed, (split, seconds) in enumerate(lengths.items())}


def write(root, dry, change, splits=("train", "val", "test")):
    """The pairs of a device `odd`; `change` makes the recorded target of what came out -> root."""
    for split in splits:
        write_audio(root / split / "odd-input.wav", dry[split], RATE)
        write_audio(root / split / "odd-target.wav", change(device(dry[split])), RATE)
    return root


def write_faulty(root, dry, change):
    """Its training pair alone has the fault."""
    write(root, dry, lambda y: y, ["val"])
    return write(root, dry, change, ["train"])


@pytest.fixture
def setup():
    """As at the beginning of a training; what is mended for it is gone after the test."""
    made = []

    def data_at(root, **options):
        data = PairedDataModule("odd", root, **options)
        made.append(data)
        data.setup("fit")
        return data

    yield data_at
    for data in made:
        data.teardown("fit")


STRANGE = np.random.default_rng(0).normal(size=5 * RATE) / 8
FAULTS = {
    "delay": lambda y: later(y, LATE)[: len(y)],
    "drift": lambda y: np.concatenate(list(warp([y.astype(np.float32)], [Line(0, 0.0, 1 - 400e-6)], len(y)))),
    "jumps": lambda y: np.concatenate([y[:100_000], y[100_300:], np.zeros(300)]),
    "unrelated": lambda _: STRANGE,
    "lengths_differ": lambda y: y[:-100],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_refused_with_its_name_and_the_cure(fault, dry, tmp_path, setup):
    root = write_faulty(tmp_path, dry, FAULTS[fault])
    with pytest.raises(PairError, match=r"odd-target\.wav") as caught:
        setup(root)
    assert caught.value.name == fault
    assert ("--data.align auto" in str(caught.value)) == (fault != "unrelated")


@pytest.mark.parametrize("case", UNUSABLE, ids=lambda case: case.name)
@pytest.mark.parametrize("mended", [False, True])
def test_no_damaged_file_is_trained_on(case, mended, tmp_path):
    """Each is refused by its name, or by that of another difference to a good file, whichever side it is on.

    Of a good file that is short alone, the split judges.
    """
    good = tmp_path / "good" / "odd-target.wav"
    write_audio(good, sound(seed=5), RATE)
    damaged = case.make(tmp_path)

    def admit(dry, wet):
        return (
            admit_mended(dry, wet, None, None, [], lambda: tmp_path / "mended")
            if mended
            else admit_checked(dry, wet)
        )

    for paths in ((damaged, good), (good, damaged)):
        with pytest.raises(PairError) as caught:
            admit(*paths)
        assert caught.value.name in {*case.expected, "lengths_differ", "silent"}


def test_the_same_file_twice_is_refused(dry, tmp_path, setup):
    root = write(tmp_path, dry, lambda y: y, ["train", "val"])
    write_audio(root / "val" / "odd-target.wav", dry["val"], RATE)
    with pytest.raises(PairError, match="same samples"):
        setup(root)


def test_what_is_not_asked_is_not_judged(dry, tmp_path, setup):
    root = write_faulty(tmp_path, dry, FAULTS["delay"])
    data = setup(root, align="off")
    assert [data.pairs[split][0].input.parent for split in ("train", "val")] == [root / "train", root / "val"]


def test_a_pair_without_fault_is_read_where_it_lies(dry, tmp_path, setup):
    root = write(tmp_path, dry, lambda y: y, ["train", "val"])
    for align in ("check", "auto"):
        pair = setup(root, align=align).pairs["train"][0]
        assert (pair.input, pair.target) == (root / "train/odd-input.wav", root / "train/odd-target.wav")


@pytest.mark.parametrize("fault", ["delay", "drift", "jumps", "lengths_differ"])
def test_what_is_mended_on_the_way_in_is_the_device(fault, dry, tmp_path, setup):
    """To -30 dB of what came out of it, but for the 0.1 s beside a jump."""
    data = setup(write_faulty(tmp_path, dry, FAULTS[fault]), align="auto")
    pair = data.pairs["train"][0]
    x, y = (read_audio(path) for path in (pair.input, pair.target))
    start = data.recipes["train"]["odd"].start
    assert np.array_equal(x, dry["train"][start : start + len(x)].astype(np.float32))
    error, wanted = y - device(x), device(x)
    if fault == "jumps":
        away = np.abs(np.arange(len(x)) + start - 100_000) > 0.1 * RATE
        error, wanted = error[away], wanted[away]
    assert np.square(error[200:-200]).sum() < 1e-3 * np.square(wanted).sum()


def test_several_channels_and_rates_become_one(dry, tmp_path, setup):
    """The target in stereo at 48 kHz, the experiment at 32 kHz."""
    from klann_lightning.data.resampling import resampled

    root = write(tmp_path, dry, lambda y: y, ["train", "val"])
    y = device(dry["train"]).astype(np.float32)
    other = np.concatenate(list(resampled([y], len(y), RATE, 48000)))
    soundfile.write(root / "train/odd-target.wav", np.stack([0 * other, other], 1), 48000, subtype="FLOAT")
    data = setup(root, align="auto", resample=True, sample_rate=32000)
    pair = data.pairs["train"][0]
    assert audio_info(pair.target) == (32000, 5 * 32000, 1)
    assert pair.sample_rate == data.pairs["val"][0].sample_rate == 32000


def test_takes_of_one_device_get_one_delay(dry, tmp_path, setup):
    """Also one that is a few samples shorter and tells less; not one that lies elsewhere."""
    root = write(tmp_path, dry, lambda y: later(y, LATE), ["train", "val"])
    write_audio(root / "val/odd-b-input.wav", dry["test"], RATE)
    write_audio(root / "val/odd-b-target.wav", later(device(dry["test"]), LATE + 200), RATE)
    recipes = setup(root, align="auto").recipes
    assert recipes["val"]["odd"].delay == recipes["train"]["odd"].delay == pytest.approx(LATE, abs=0.1)
    assert recipes["val"]["odd-b"].delay == pytest.approx(LATE + 200, abs=0.1)


@pytest.fixture(scope="module")
def trained(dry, tmp_path_factory):
    """One batch on targets that are late and upside down -> the run's folder; the root is beside it."""
    folder = tmp_path_factory.mktemp("mended")
    root = write(folder / "data", dry, lambda y: -later(y, LATE))
    few = ("--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--media=false")
    fit(root, folder / "run", f"[{TIME}]", "--data.device=odd", "--data.align=auto", *few)
    return folder / "run"


def test_run_and_checkpoint_say_how_the_recordings_were_mended(trained):
    stored = json.loads((trained / "alignment.json").read_text())
    recipes = load_recipes(stored)
    assert set(recipes) == {"train", "val", "test"}
    for own in recipes.values():
        assert own["odd"].polarity == -1
        assert own["odd"].delay == recipes["train"]["odd"].delay == pytest.approx(LATE, abs=0.1)
    content = read_checkpoint(trained / "stage-1-time.ckpt")
    assert {"train", "val"} <= set(load_recipes(content["PairedDataModule"]))


def test_playing_is_in_step_with_the_input_or_as_recorded(trained, tmp_path, capsys):
    checkpoint, source = trained / "stage-1-time.ckpt", trained.parent / "data/test/odd-input.wav"
    main(["process", str(checkpoint), str(source), str(tmp_path / "plain.wav")])
    assert "--as_recorded" in capsys.readouterr().out
    main(["process", str(checkpoint), str(source), str(tmp_path / "back.wav"), "--as_recorded"])
    assert "--as_recorded" not in capsys.readouterr().out
    plain, back = (read_audio(tmp_path / name) for name in ("plain.wav", "back.wav"))
    assert len(plain) == audio_info(source).frames
    assert len(back) == len(plain) + LATE
    assert np.abs(back[:LATE]).max() == 0
    assert np.allclose(back[LATE:], -plain, rtol=0, atol=1e-6)


def test_another_recording_gets_the_delay_that_all_have(trained, dry, tmp_path):
    write_audio(tmp_path / "new.wav", dry["test"][:50_000], RATE)
    checkpoint = trained / "stage-1-time.ckpt"
    main(["process", str(checkpoint), str(tmp_path / "new.wav"), str(tmp_path / "out.wav"), "--as_recorded"])
    assert audio_info(tmp_path / "out.wav").frames == 50_000 + LATE


def test_nothing_is_undone_where_nothing_was_done(dry, tmp_path):
    root = write(tmp_path / "data", dry, lambda y: y)
    few = ("--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--media=false")
    fit(root, tmp_path / "run", f"[{TIME}]", "--data.device=odd", *few)
    assert not (tmp_path / "run/alignment.json").exists()
    words = [
        str(tmp_path / "run/stage-1-time.ckpt"),
        str(root / "val/odd-input.wav"),
        str(tmp_path / "x.wav"),
    ]
    with pytest.raises(ConfigError, match="not mended"):
        main(["process", *words, "--as_recorded"])


def test_scores_of_a_checkpoint_are_those_of_its_training(trained, monkeypatch):
    """`test` gives the test recordings the delay of the training's, also where these are gone."""
    from klann_lightning.experiment import Experiment

    config, checkpoint = trained / "config.yaml", trained / "stage-1-time.ckpt"
    words = ["test", "--config", str(config), "--ckpt_path", str(checkpoint)]
    run = Experiment(words)
    assert run.datamodule.recipes["test"]["odd"].delay == run.datamodule.recipes["train"]["odd"].delay
    scores = json.loads((trained / "scores.json").read_text())
    expected = next(row["esr_db"] for row in scores if row["name"] == "stage-1-time")
    assert float(run.trainer.callback_metrics["test/esr_db"]) == pytest.approx(expected, abs=1e-4)


def test_each_of_a_name_is_played_as_its_own_split_was_recorded(trained):
    recipes = load_recipes(json.loads((trained / "alignment.json").read_text()))
    recipes["val"]["odd"] = replace(recipes["val"]["odd"], delay=5.0)
    root = trained.parent / "data"
    frames = audio_info(root / "test/odd-input.wav").frames
    for split in ("val", "test"):
        assert _recipe_for(root / split / "odd-input.wav", frames, recipes) == recipes[split]["odd"]
    with pytest.raises(ConfigError, match="alike"):
        _recipe_for(trained / "other.wav", frames, recipes)


def test_a_verdict_on_strangers_mends_nothing(dry, tmp_path, monkeypatch):
    """Also where only the way back would be a device."""
    root = write(tmp_path, dry, lambda y: y, ["val"])
    paths = root / "val/odd-input.wav", root / "val/odd-target.wav"
    backwards = [Finding("swapped", "harms", "They are exchanged.", "Exchange them.")]
    monkeypatch.setattr(admission, "verdict", lambda *_: Verdict(backwards, (0, 0), None, None, 0.0, 0.0))
    with pytest.raises(PairError, match="exchanged"):
        admit_mended(*paths, None, None, [], lambda: tmp_path / "mended")


def test_a_damaged_recipe_is_refused(trained, tmp_path):
    import torch

    content = read_checkpoint(trained / "stage-1-time.ckpt")
    content["PairedDataModule"]["train"]["odd"] = {"delay": "soon"}
    torch.save(content, tmp_path / "bad.ckpt")
    source = trained.parent / "data/test/odd-input.wav"
    with pytest.raises(CheckpointError, match="damaged"):
        main(["process", str(tmp_path / "bad.ckpt"), str(source), str(tmp_path / "x.wav")])

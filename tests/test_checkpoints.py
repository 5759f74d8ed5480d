"""What somebody sends as a checkpoint is data: it runs nothing, and says what it is not good for."""

import os
import pickle
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import write_root
from test_stages import SMALL, TIME, fit

from klann_lightning import __version__
from klann_lightning.cli import main
from klann_lightning.data.audio import write_audio
from klann_lightning.errors import CheckpointError
from klann_lightning.training.checkpoints import FORMAT, load_model, read_checkpoint, scored_settings

PARALLEL = "klann_lightning.models.klann.ParallelKlann"
COMMANDS = ("process", "bench", "validate", "test", "predict", "resume", "init_from")


class Makes:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


def pickled(protocol: int) -> Callable[[Any, Path], object]:
    return lambda content, path: path.write_bytes(pickle.dumps(content, protocol))


PICKLERS: dict[str, Callable[[Any, Path], object]] = {
    "zip": torch.save,
    "legacy": lambda content, path: torch.save(content, path, _use_new_zipfile_serialization=False),
    "pickle 0": pickled(0),
    "pickle 2": pickled(2),
    "pickle 5": pickled(5),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return write_root(tmp_path_factory.mktemp("recordings"), np.tanh)


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory) -> Path:
    """Of a training of one batch."""
    runs = tmp_path_factory.mktemp("trained")
    fit(root, runs, f"[{TIME}]", "--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--media=false")
    return runs / "last.ckpt"


@pytest.fixture
def content(trained) -> dict[str, Any]:
    """The checkpoint's, to be changed."""
    saved: dict[str, Any] = torch.load(trained, weights_only=True)
    return saved


@pytest.fixture
def use(root, tmp_path, monkeypatch) -> Callable[..., object]:
    """Uses sent.ckpt by a command, in a working directory that modules are imported from."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    experiment = ["--data.device=tiny", f"--data.root={root}", *SMALL, f"--model.stages=[{TIME}]"]
    experiment += ["--trainer.default_root_dir=run", "--trainer.logger=false", "--media=false"]

    def used(command: str, *more: str) -> object:
        if command == "process":
            write_audio(tmp_path / "in.wav", np.full(100, 0.1, np.float32), 44100)
            return main([command, "sent.ckpt", "in.wav", "out.wav"])
        if command == "settings":  # what validate, test and predict take from it
            return scored_settings(Path("sent.ckpt"), 44100)
        if command == "bench":
            return main([command, "sent.ckpt", "--systems=", "--runs=1"])
        option = "--model.init_from" if command == "init_from" else "--ckpt_path"
        fits = command in ("init_from", "resume")
        return main(["fit" if fits else command, *experiment, f"{option}=sent.ckpt", *more])

    return used


def refuses(use: Callable[..., object], said: str, command: str, *more: str) -> None:
    """In one line, before anything is made."""
    with pytest.raises(CheckpointError, match=said) as refused:
        use(command, *more)
    assert "\n" not in str(refused.value)
    assert not Path("run").exists()
    assert not Path("executed").exists()


@pytest.mark.parametrize("write", PICKLERS.values(), ids=PICKLERS)
@pytest.mark.parametrize("place", ["extra", "state_dict", "hyper_parameters", "all of it"])
def test_what_a_checkpoint_pickles_is_not_run(place, write, content, use):
    makes = Makes(Path("executed").absolute())
    if place in content:
        content[place]["model.extra"] = makes
    else:
        content[place] = makes
    write(makes if place == "all of it" else content, Path("sent.ckpt"))
    refuses(use, r"sent\.ckpt cannot be read .*which could run code", "process")


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_runs_what_a_checkpoint_pickles(command, content, use):
    torch.save({**content, "extra": Makes(Path("executed").absolute())}, "sent.ckpt")
    refuses(use, r"sent\.ckpt cannot be read .*which could run code", command)


EVIL: dict[str, dict[str, Any]] = {
    "model": {"model": {"class_path": "evil.Model", "init_args": {}}},
    "name of a model": {"model": "evil.Model"},
    "model as text": {"model": "{class_path: evil.Model}"},
    "model as hidden text": {"model": r'{class_path: "\x65vil.Model"}'},
    "argument": {"model": {"class_path": PARALLEL, "init_args": {"hidden": {"class_path": "evil.Model"}}}},
    "name of an argument": {"model": {"class_path": PARALLEL, "init_args": {"start": "evil.start"}}},
    "optimizer": {"optimizer": {"class_path": "evil.Optimizer"}},
    "name of an optimizer": {"optimizer": "evil.optimizer"},
    "a stage's optimizer": {"stages": [{"name": "time", "optimizer": "evil.optimizer"}]},
    "a stage's feed": {"stages": [{"name": "time", "feed": {"class_path": "evil.Feed"}}]},
    "the whole module": {"_class_path": "evil.Module"},
}


@pytest.mark.parametrize("change", EVIL.values(), ids=EVIL)
def test_what_lies_beside_a_checkpoint_is_not_imported(change, content, use):
    for command in ("process", "settings"):
        send_with_evil({**content, "hyper_parameters": {**content["hyper_parameters"], **change}})
        refuses(use, r"sent\.ckpt names the class '.*', which is not imported here", command)
        assert "evil" not in sys.modules


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_imports_what_lies_beside_a_checkpoint(command, content, use):
    content["hyper_parameters"]["model"]["class_path"] = "evil.Model"
    send_with_evil(content)
    refuses(use, r"'evil\.Model'.* If you trust 'evil', import it in Python first", command)
    assert "evil" not in sys.modules


@pytest.mark.parametrize(
    "change",
    [
        {"model": "settings"},
        {"model": {"class_path": PARALLEL, "init_args": "settings"}},
        {"model": {"class_path": PARALLEL, "init_args": {"hidden": "settings", "lift_dim": 2}}},
        {"stages": "settings"},
        {"stages": ["settings"]},
        {"stages": [{"name": "time", "weights": "settings"}]},
        {"mr_stft": "settings"},
        {"mr_stft": {"fft_sizes": "settings"}},
    ],
)
def test_settings_that_lie_beside_a_checkpoint_are_not_read(change, content, use):
    """jsonargparse would, where a class is expected."""
    Path("settings").write_text("class_path: evil.Model\n")
    content["hyper_parameters"].update(change)
    send_with_evil(content)
    refuses(use, r"sent\.ckpt holds another version's or another model", "settings")
    assert "evil" not in sys.modules


def test_what_is_not_used_is_not_looked_at(content, use):
    content["hyper_parameters"].update({"_instantiator": "evil.make", "init_from": "evil.ckpt"})
    content["hyper_parameters"]["optimizer"] = "somewhere.ckpt"  # nothing that could be imported
    send_with_evil(content)
    use("process")
    use("test")
    assert "evil" not in sys.modules
    assert not Path("executed").exists()


def send_with_evil(content: dict[str, Any]) -> None:
    Path("evil.py").write_text("import os\nos.mkdir('executed')\n")
    torch.save(content, "sent.ckpt")


def test_a_class_is_loaded_once_its_module_is_imported(content, use):
    Path("ours.py").write_text(
        "from klann_lightning.models.klann import ParallelKlann\n\nclass Ours(ParallelKlann):\n    pass\n"
    )
    content["hyper_parameters"]["model"]["class_path"] = "ours.Ours"
    torch.save(content, "sent.ckpt")
    refuses(use, r"'ours\.Ours', which is not imported here", "process")
    import ours

    try:
        assert isinstance(load_model(Path("sent.ckpt")), ours.Ours)
        use("process")
    finally:
        del sys.modules["ours"]


def test_a_class_that_is_no_model_is_refused(content, use):
    for path in ("subprocess.Popen", "klann_lightning.data.feeds.Readers", f"{PARALLEL}s"):
        content["hyper_parameters"]["model"] = {"class_path": path, "init_args": {}}
        torch.save(content, "sent.ckpt")
        refuses(use, rf"holds another version's or another model: .*{path}", "process")


def test_loading_draws_no_random_numbers(trained):
    torch.manual_seed(0)
    expected = torch.rand(())
    torch.manual_seed(0)
    load_model(trained)
    assert torch.rand(()) == expected


def test_a_checkpoint_says_what_has_written_it(trained):
    assert read_checkpoint(trained)["klann_lightning"] == {"version": __version__, "format": FORMAT}


@pytest.mark.parametrize("command", ["process", "test", "resume"])
def test_a_newer_format_is_refused(command, content, use):
    torch.save({**content, "klann_lightning": {"version": "9.1", "format": FORMAT + 1}}, "sent.ckpt")
    said = rf"written by klann_lightning 9\.1 in format {FORMAT + 1}; this is {__version__}, .* Install klann"
    refuses(use, said, command)


def test_a_checkpoint_that_does_not_say_its_format_is_an_older_one(content, use):
    content.pop("klann_lightning")
    torch.save(content, "sent.ckpt")
    use("process")
    content["state_dict"].pop("model.bank.mix")
    torch.save(content, "sent.ckpt")
    refuses(use, r"another model: .*bank\.mix.* klann_lightning of an early version, this is", "process")
    for garbled in ("new", {"version": __version__}, {"version": "2", "format": "two"}):
        torch.save({**content, "klann_lightning": garbled}, "sent.ckpt")
        refuses(use, r"sent\.ckpt is damaged", "process")


@pytest.mark.parametrize("part", ["state_dict", "hyper_parameters"])
@pytest.mark.parametrize("value", [None, 3, [], {}, {"model": None}, {"model": {"class_path": 3}}])
def test_a_part_that_is_something_else_is_refused(part, value, content, use):
    torch.save({**content, part: value}, "sent.ckpt")
    for command in ("process", "settings"):
        refuses(use, r"^sent\.ckpt (is not a checkpoint of a fit|holds another version's)", command)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            ["--model.model=klann_lightning.models.lstm.Lstm", "--model.model.hidden=4"],
            r"^ckpt_path: sent\.ckpt holds a ParallelKlann, the experiment configures a Lstm\. To start from "
            rf"it, configure --model\.model {PARALLEL} --model\.model\.hidden '\[3\]' --model",
        ),
        (["--model.model.lift_dim=3"], r"its lift\.last\.weight is \[2, 3\], the configured one's \[3, 3\]"),
        (["--data.sample_rate=48000"], "is for 44100 Hz, the experiment for 48000 Hz. Set data.sample_rate"),
    ],
)
def test_a_training_goes_on_with_its_own_model_alone(more, said, content, use):
    torch.save(content, "sent.ckpt")
    refuses(use, said, "resume", *more)


def test_a_model_is_scored_at_its_own_rate(content, use):
    torch.save(content, "sent.ckpt")
    said = "ckpt_path: sent.ckpt is for 44100 Hz, the experiment for 48000 Hz. Set data.sample_rate to 44100"
    refuses(use, said, "test", "--data.sample_rate=48000")


def test_a_model_is_scored_by_its_own_stages_and_spectra(content, use):
    """Whatever the experiment configures; what only trains stays the experiment's."""
    given = content["hyper_parameters"]
    given["stages"] = [{**deepcopy(given["stages"][0]), "name": "other", "weights": {"mse": 2.0}}]
    given["stages"][0]["optimizer"] = {"class_path": "torch.optim.LBFGS"}
    given["mr_stft"] = {"fft_sizes": [256], "hop_sizes": [64], "win_lengths": [256]}
    torch.save(content, "sent.ckpt")
    module = use("test", "--model.optimizer=SGD", "--model.model.lift_dim=7").model
    assert (module.stages[0].name, module.stages[0].weights) == ("other", {"mse": 2.0})
    assert module.stages[0].optimizer is None
    assert module.resolutions.fft_sizes == [256]
    assert len(module.model.bank.cutoff) == 2

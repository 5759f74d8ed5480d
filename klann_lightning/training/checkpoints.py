"""Checkpoints, read without running anything of theirs: neither what they pickle nor modules they name.

A sender can pickle a call, and can lay a module beside a checkpoint that names a class in it: jsonargparse
would import the module. So only tensors and plain data are unpickled, and only our own classes and torch's
optimizers can be named, or classes of modules that the running program has imported of its own accord.
"""

import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser, Namespace
from torch import Tensor

from klann_lightning import __version__
from klann_lightning.doctor.recipe import Recipes, load_recipes
from klann_lightning.errors import CheckpointError, PairError
from klann_lightning.files import replacing
from klann_lightning.losses import StftResolutions
from klann_lightning.models.base import AudioModel
from klann_lightning.training.recipe import LossStage

ORIGIN = "klann_lightning"  # in a checkpoint, beside what Lightning writes: by whom it was written
RECORDINGS = "PairedDataModule"  # there too: how these were mended, where they were
FORMAT = 1  # of what is written; older formats can be read
WRITTEN_BY: dict[str, Any] = {"version": __version__, "format": FORMAT}

TRUSTED = ("klann_lightning.", "torch.optim.")
UNREAD = ("_instantiator", "init_from")  # hyper-parameters that nothing looks at
SIGN = r"[^\s\x00-/:-@\[-^`{-\x7f]"  # of an import path, apart from the dots
IMPORT_PATH = re.compile(rf"{SIGN}+(?:\.{SIGN}+)+")


def load_plain(path: Path) -> Any:
    """Tensors and plain data from a file; for what else torch or pickle has written, an error of any kind."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about files of other programs
        return torch.load(path, map_location="cpu", weights_only=True)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's tensors and plain data; or CheckpointError, also where it names a foreign class."""
    if not path.is_file():
        raise CheckpointError(f"no such checkpoint: {path}. Check its name and its folder.")
    try:
        content = load_plain(path)
    except Exception as error:  # torch raises whatever the bytes lead it to
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint: it is damaged, or holds more than tensors and plain "
            "data, which could run code if it were read. Copy it again, or take one that fit has written."
        ) from error
    parts = ("state_dict", "hyper_parameters")
    if not isinstance(content, dict) or not all(isinstance(content.get(part), dict) for part in parts):
        raise CheckpointError(
            f"{path} is not a checkpoint of a fit: it lacks weights or hyper-parameters. "
            "Take a last.ckpt or stage-*.ckpt from the folder of a run."
        )
    _refuse_newer(path, content.get(ORIGIN))
    _refuse_foreign(path, content["hyper_parameters"])
    return content


def write_weights(
    path: Path,
    hyper_parameters: Mapping[str, Any],
    state: Mapping[str, Tensor],
    recordings: Mapping[str, Any] | None = None,
) -> None:
    """A checkpoint as of a fit, but with no training to resume; as a whole or, by CheckpointError, not.

    `state` is an EffectModule's: its `target_power`, and the model's own as `model.*`. `recordings`: how they
    were mended for the training, as another checkpoint says it.
    """
    content = {
        **{"epoch": 0, "global_step": 0, "pytorch-lightning_version": version("lightning")},
        ORIGIN: WRITTEN_BY,
        "state_dict": dict(state),
        "hparams_name": "kwargs",
        "hyper_parameters": {
            **hyper_parameters,
            "_instantiator": "lightning.pytorch.cli.instantiate_module",
        },
        **({RECORDINGS: recordings} if recordings else {}),
    }
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder. Name the checkpoint's file, as {path / 'model.ckpt'}.")
    try:
        with replacing(path) as aside, aside.open("wb") as file:
            torch.save(content, file)
    except (OSError, RuntimeError) as error:  # RuntimeError: torch, where the disk is full
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"{path} cannot be written: {reason}. Check the folder's permissions and the disk's free space."
        ) from error


def load_model(checkpoint: Path) -> AudioModel:
    """The trained model of a checkpoint, on the CPU, ready to play; CheckpointError says why not."""
    return model_of(checkpoint, read_checkpoint(checkpoint))


def model_of(checkpoint: Path, content: Mapping[str, Any]) -> AudioModel:
    """As `load_model`, of a checkpoint that has been read."""
    with _explained(checkpoint, content), torch.random.fork_rng(devices=[]):
        parser, config = _parsed({"model": AudioModel}, {"model": dict(content["hyper_parameters"]["model"])})
        model: AudioModel = parser.instantiate(config)["model"]
        weights = content["state_dict"].items()
        model.load_state_dict(
            {name.removeprefix("model."): value for name, value in weights if name.startswith("model.")}
        )
    return model.eval()


def fitting_model(checkpoint: Path, configured: AudioModel, option: str) -> AudioModel:
    """As `load_model`; CheckpointError by the option's name where it cannot stand for the configured one."""
    begun = _model_at_rate(checkpoint, configured.sample_rate, option)
    if other := _difference(begun, configured):
        raise CheckpointError(
            f"{option}: {checkpoint} holds {other}. To start from it, configure {_configuration(checkpoint)}."
        )
    return begun


def scored_settings(checkpoint: Path, sample_rate: int) -> dict[str, Any]:
    """What EffectModule is told to score a checkpoint's model as it was trained: model, stages, spectra.

    Checked and plain. What only trains is left out: optimizers and feeds name classes too. CheckpointError
    where the model cannot be made, or is for another rate than the recordings' (Hz).
    """
    _model_at_rate(checkpoint, sample_rate, "ckpt_path")
    content = read_checkpoint(checkpoint)
    given = content["hyper_parameters"]
    types = {"model": AudioModel, "stages": list[LossStage], "mr_stft": StftResolutions}
    known = {name: kind for name, kind in types.items() if name in given}
    with _explained(checkpoint, content):
        stages = [{**stage, "optimizer": None, "feed": None} for stage in given["stages"]]
        spectra = dict(given.get("mr_stft", {}))  # of a text, the parser would look for a file
        _, config = _parsed(known, {**given, "stages": stages, "mr_stft": spectra})
    return config.as_dict()


def mended_as(path: Path, content: Mapping[str, Any]) -> Recipes:
    """How the recordings of its training were mended, if they were; CheckpointError where that is damaged."""
    try:
        return load_recipes(content.get(RECORDINGS, {}))
    except PairError as error:
        raise CheckpointError(f"{path} is damaged: {error.evidence} Copy it again.") from error


def _model_at_rate(checkpoint: Path, sample_rate: int, option: str) -> AudioModel:
    model = load_model(checkpoint)
    if model.sample_rate != sample_rate:
        raise CheckpointError(
            f"{option}: {checkpoint} is for {model.sample_rate} Hz, the experiment for {sample_rate} Hz. "
            f"Set data.sample_rate to {model.sample_rate}."
        )
    return model


def _refuse_newer(path: Path, origin: Any) -> None:
    if origin is None:  # of the first versions, which did not say
        return
    try:
        version, number = str(origin["version"]), int(origin["format"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: it garbles what has written it. Copy it again.") from error
    if number > FORMAT:
        raise CheckpointError(
            f"{path} was written by klann_lightning {version} in format {number}; this is {__version__}, "
            f"which reads formats up to {FORMAT}. Install klann_lightning {version} or later."
        )


def _refuse_foreign(path: Path, hyper_parameters: Mapping[str, Any]) -> None:
    read = {name: value for name, value in hyper_parameters.items() if name not in UNREAD}
    for name in _import_paths(read):
        module = name.rpartition(".")[0]
        if module and not name.startswith(TRUSTED) and module not in sys.modules:
            raise CheckpointError(
                f"{path} names the class {name!r}, which is not imported here: a checkpoint could so run "
                f"what somebody has laid beside it. If you trust {module!r}, import it in Python first, and "
                "load the checkpoint there."
            )


def _import_paths(value: Any, key: object = None) -> Iterator[str]:
    """Every class path in nested data, and what else a parser could take for something to import."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _import_paths(part, name)
    elif isinstance(value, list | tuple | set):
        for part in value:
            yield from _import_paths(part)
    elif isinstance(value, str):
        if key == "class_path" or "\\" in value:  # an escape sign can hide a path in YAML
            yield value
        else:
            yield from (name for name in IMPORT_PATH.findall(value) if _exists(name.partition(".")[0]))


def _exists(package: str) -> bool:
    """Whether there is anything of that name to import; imports nothing."""
    return package in sys.modules or find_spec(package) is not None


def _parsed(types: Mapping[str, Any], values: Mapping[str, Any]) -> tuple[ArgumentParser, Namespace]:
    """Values checked against their types, and the parser that has checked them."""
    parser = ArgumentParser(exit_on_error=False)
    for name, kind in types.items():
        parser.add_argument(f"--{name}", type=kind, required=True)
    return parser, parser.parse_object({name: values.get(name) for name in types})


@contextmanager
def _explained(checkpoint: Path, content: Mapping[str, Any]) -> Iterator[None]:
    """CheckpointError for what jsonargparse and torch say against its content, each by its own kinds."""
    try:
        yield
    except Exception as error:
        version = content.get(ORIGIN, {}).get("version", "of an early version")
        raise CheckpointError(
            f"{checkpoint} holds another version's or another model: {' '.join(str(error).split())}. It was "
            f"written by klann_lightning {version}, this is {__version__}: use that one, or copy it again."
        ) from error


def _difference(begun: AudioModel, configured: AudioModel) -> str | None:
    """In which class, size or initial state two models differ, in words."""
    classes = [type(model).__name__ for model in (begun, configured)]
    if type(begun) is not type(configured):
        return f"a {classes[0]}, the experiment configures a {classes[1]}"
    states = [model.state_dict() for model in (begun, configured)]
    for name in dict.fromkeys([*states[0], *states[1]]):
        there, here = (list(state[name].shape) if name in state else "absent" for state in states)
        if there != here:
            return f"a {classes[0]} of other sizes: its {name} is {there}, the configured one's {here}"
    memories = [[model.block, *(part.shape for part in model.init_state(1))] for model in (begun, configured)]
    if memories[0] != memories[1]:
        return f"a {classes[0]} that remembers other samples than the configured one: its arguments differ"
    theirs, ours = (getattr(model, "initial", None) for model in (begun, configured))
    if theirs != ours:
        return f"a {classes[0]} whose filters start from {theirs}, the configured one's start from {ours}"
    return None


def _configuration(checkpoint: Path) -> str:
    """A checkpoint's class, sizes and initial state, as options of fit."""
    model = read_checkpoint(checkpoint)["hyper_parameters"]["model"]
    sizes = {
        name: value
        for name, value in model.get("init_args", {}).items()
        if isinstance(value, list) or name == "initial" or (type(value) is int and name != "sample_rate")
    }
    values = {name: f"'{value}'" if isinstance(value, list) else value for name, value in sizes.items()}
    options = [f"--model.model.{name} {value}" for name, value in values.items()]
    return " ".join([f"--model.model {model['class_path']}", *options])
